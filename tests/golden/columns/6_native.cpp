// kernel attention1(in0: float32[1, 1, 160, 32], in1: float32[1, 1, 160, 32], in2: float32[1, 1, 160, 32], t0: float32[160], t1: float32[160])
//   grid   
//   tile   o2 < 160
//   resident  b1 < 32, o3 < 32
//   sweep x < 160:
//     v0[o2,x] = (exp(((sum[b1 < 32]((in0[0, 0, x, b1] * in1[0, 0, o2, b1])) / 5.7) - t0[x])) / t1[x])
//     c0[o2] sum= v0
//   sweep x < 160:
//     c1[o2,o3] sum= (in2[0, 0, x, o3] * (v0 / c0))
//   out0[0, 0, o2, o3] = c1
#define FL_BITS 128
#include "flashlight.h"

namespace fl {

namespace {

struct Tensors {
  const float* in0;
  const float* in1;
  const float* in2;
  const float* t0;
  const float* t1;
  float* out0;
};
struct Tile {
  long x_first, x_count;
};
struct Panel {
  long first, live;  // position of lane 0, lanes that exist
  alignas(64) real c0[1 * W];  // [lane]
  alignas(64) real c1[32 * W];  // [o3, lane]
  alignas(64) real q0[32 * W];  // [b1, lane]
};
struct Work {
  alignas(64) real s0[160 * W];  // [x, lane]
  alignas(64) real s2[160 * W];  // [x, lane]
  alignas(64) real s3[32 * W];  // [o3, lane]
};

// once a panel: what the sweeps do not change
static void prologue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in1 = t.in1;
  const long o2 = p.first;
  const long live = p.live;
  pack(p.q0, 1 * W, in1 + (0) + o2 * 32, 32, 32, live);
}

// before the first block
static void sweep0_start(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const long live = p.live;
  put<F>(p.c0, all<F>(0));
}

// a block for one panel
static void sweep0_block(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in0 = t.in0;
  const float* __restrict t0 = t.t0;
  const float* __restrict t1 = t.t1;
  const long x_first = g.x_first;
  const long x_count = g.x_count;
  const long live = p.live;
  Sum<F> sum;
  contract<32, 1, 1 * W, 1 * W, false>(in0 + (0) + x_first * 32, p.q0, w.s0, x_count, 32, [&](long first, long end) { for (long x = x_first + first; x < x_first + end; ++x) {
    const real v1 = get(t1[x]);
    const real v2 = get(t0[x]);
    const F v3 = row<F>(w.s0 + (x - x_first) * W);  // columns.py:5
    const F v4 = v3 * all<F>(0.17543859649122806f);  // columns.py:5
    const F v5 = v4 - all<F>(v2);
    const F v6 = exp(v5);
    const F v7 = v6 / all<F>(v1);
    sum.add(v7);
  }});
  {
    const F c0_before = row<F>(p.c0);
    put<F>(p.c0, c0_before + sum.value());
  }
}

// before the first block
static void sweep1_start(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const long live = p.live;
  for (long o3 = 0; o3 < 32; ++o3) {
    put<F>(p.c1 + (o3) * W, all<F>(0));
  }
}

// a block for one panel
static void sweep1_block(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in0 = t.in0;
  const float* __restrict in2 = t.in2;
  const float* __restrict t0 = t.t0;
  const float* __restrict t1 = t.t1;
  const long x_first = g.x_first;
  const long x_count = g.x_count;
  const long live = p.live;
  const F v13 = row<F>(p.c0);
  const F v14 = recip(v13);
  contract<32, 1, 1 * W, 1 * W, false>(in0 + (0) + x_first * 32, p.q0, w.s2, x_count, 32, [&](long first, long end) { for (long x = x_first + first; x < x_first + end; ++x) {
    const F v8 = row<F>(w.s2 + (x - x_first) * W);  // columns.py:5
    const real v9 = get(t0[x]);
    const F v10 = v8 * all<F>(0.17543859649122806f);  // columns.py:5
    const F v11 = v10 - all<F>(v9);
    const F v12 = exp(v11);
    const real v15 = get(t1[x]);
    const real v16 = recip(v15);
    const F v17 = all<F>(v16) * v14;
    const F v18 = v17 * v12;
    put<F>(w.s2 + (x - x_first) * W, v18);
  }});
  contract<1, 32, 1 * W, 1 * W, true>(in2 + (0) + x_first * 32, w.s2, p.c1, 32, x_count);
}

// once a panel
static void epilogue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  float* __restrict out0 = t.out0;
  const long o2 = p.first;
  const long live = p.live;
  for (long o3 = 0; o3 < 32; ++o3) {
    const F v19 = row<F>(p.c1 + (o3) * W);
    put<F>(w.s3 + (o3) * W, v19);
  }
  unpack<F>(out0 + (0) + o2 * 32, 32, w.s3, 1 * W, 32, live);
}

static void run_task(const Tensors& t, Tile& g, long panels, Panel* p, Work& w) {
  for (long i = 0; i < panels; ++i) prologue(t, g, p[i], w);
  for (long i = 0; i < panels; ++i) sweep0_start(t, g, p[i], w);
  for (g.x_first = 0; g.x_first < 160; g.x_first += 160) {
    g.x_count = 160 - g.x_first < 160 ? 160 - g.x_first : 160;
    for (long i = 0; i < panels; ++i) sweep0_block(t, g, p[i], w);
  }
  for (long i = 0; i < panels; ++i) sweep1_start(t, g, p[i], w);
  for (g.x_first = 0; g.x_first < 160; g.x_first += 160) {
    g.x_count = 160 - g.x_first < 160 ? 160 - g.x_first : 160;
    for (long i = 0; i < panels; ++i) sweep1_block(t, g, p[i], w);
  }
  for (long i = 0; i < panels; ++i) epilogue(t, g, p[i], w);
}

}  // namespace

constexpr long PANELS = 1;
struct Thread { Tasks tasks; Panel p[PANELS]; Work w; };
// 20 tasks; returns 0, or 1 when there is no memory for scratch
extern "C" int attention1(void* const* tensors, long threads, long* visited) {
  const Tensors t = {(const float*)tensors[0], (const float*)tensors[1], (const float*)tensors[2], (const float*)tensors[3], (const float*)tensors[4], (float*)tensors[5]};
  Thread* memory = (Thread*)aligned_alloc(64, threads * sizeof(Thread));
  if (!memory) return 1;
  for (long i = 0; i < threads; ++i)
    memory[i].tasks = {20 * i / threads, 20 * (i + 1) / threads};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const TileState state;
    const long me = omp_get_thread_num();
    Thread& own = memory[me];
    for (long i = 0; i < threads; ++i) for (long task; (task = memory[(me + i) % threads].tasks.take()) >= 0;) {
      Tile g;
      long rest = task;
      const long tile = rest % 20;
      rest /= 20;
      long panels = 0;
      for (long first = tile * PANELS * W; panels < PANELS && first < 160; first += W, ++panels)
        own.p[panels].first = first, own.p[panels].live = 160 - first < W ? 160 - first : W;
      run_task(t, g, panels, own.p, own.w);
    }
  }
  free(memory);
  return 0;
}

}  // namespace fl

