// kernel attention0(in0: float32[1], in1: float32[1, 2, 300, 64], in2: float32[1, 2, 300, 64], in3: float32[1, 2, 300, 64])
//   grid   o1 < 2
//   tile   o2 < 300
//   resident  b1 < 32, o3 < 64
//   sweep x < 300:
//     v0[o1,o2,x] = (sum[b1 < 32]((in2[0, o1, o2, b1] * in1[0, o1, x, b1])) / 5.6)    # differential.py:6
//     c0[o1,o2] max= v0
//     v1[o1,o2,x] = exp((v0 - c0))    # differential.py:6
//     c1[o1,o2] sum= v1    rescaled by exp((c0_before - c0))
//     v2[o1,o2,x] = (sum[b1 < 32]((in2[0, o1, o2, b1+32] * in1[0, o1, x, b1+32])) / 5.6)    # differential.py:6
//     c2[o1,o2] max= v2
//     v3[o1,o2,x] = exp((v2 - c2))    # differential.py:6
//     c3[o1,o2] sum= v3    rescaled by exp((c2_before - c2))
//     c4[o1,o2,o3] sum= (in3[0, o1, x, o3] * v1)    rescaled by exp((c0_before - c0))
//     c5[o1,o2,o3] sum= (v3 * in3[0, o1, x, o3])    rescaled by exp((c2_before - c2))
//   out0[0, o1, o2, o3] = ((c4 / c1) - ((in0[0] * c5) / c3))
#define FL_BITS 128
#include "flashlight.h"

namespace fl {

namespace {

struct Tensors {
  const float* in0;
  const float* in1;
  const float* in2;
  const float* in3;
  float* out0;
};
struct Tile {
  long o1;
  long x_first, x_count;
};
struct Panel {
  long first, live;  // position of lane 0, lanes that exist
  alignas(64) real c0[1 * W];  // [lane]
  alignas(64) real c1[1 * W];  // [lane]
  alignas(64) real c2[1 * W];  // [lane]
  alignas(64) real c3[1 * W];  // [lane]
  alignas(64) real c4[64 * W];  // [o3, lane]
  alignas(64) real c5[64 * W];  // [o3, lane]
  alignas(64) real q0[32 * W];  // [b1, lane]
  alignas(64) real q1[32 * W];  // [b1, lane]
};
struct Work {
  alignas(64) real c0_old[1 * W];  // [lane]
  alignas(64) real c2_old[1 * W];  // [lane]
  alignas(64) real s0[300 * W];  // [x, lane]
  alignas(64) real s2[1 * W];  // [lane]
  alignas(64) real s1[1 * W];  // [lane]
  alignas(64) real s4[300 * W];  // [x, lane]
  alignas(64) real s6[1 * W];  // [lane]
  alignas(64) real s5[1 * W];  // [lane]
  alignas(64) real s8[64 * W];  // [o3, lane]
};

// once a panel: what the sweeps do not change
static void prologue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in2 = t.in2;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  pack(p.q0, 1 * W, in2 + (o1 * 19200) + o2 * 64, 64, 32, live);
  pack(p.q1, 1 * W, in2 + (o1 * 19200 + 32) + o2 * 64, 64, 32, live);
}

// before the first block
static void sweep0_start(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const long live = p.live;
  put<F>(p.c0, all<F>(-inf));
  put<F>(p.c1, all<F>(0));
  put<F>(p.c2, all<F>(-inf));
  put<F>(p.c3, all<F>(0));
  for (long o3 = 0; o3 < 64; ++o3) {
    put<F>(p.c4 + (o3) * W, all<F>(0));
  }
  for (long o3 = 0; o3 < 64; ++o3) {
    put<F>(p.c5 + (o3) * W, all<F>(0));
  }
}

// a block for one panel
static void sweep0_block(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in1 = t.in1;
  const float* __restrict in3 = t.in3;
  const long o1 = g.o1;
  const long x_first = g.x_first;
  const long x_count = g.x_count;
  const long live = p.live;
  F top = all<F>(-inf);
  contract<64, 1, 1 * W, 1 * W, false>(in1 + (o1 * 19200) + x_first * 64, p.q0, w.s0, x_count, 32, [&](long first, long end) { for (long x = x_first + first; x < x_first + end; ++x) {
    const F v1 = row<F>(w.s0 + (x - x_first) * W);  // differential.py:6
    const F v2 = v1 * all<F>(0.17857142857142858f);  // differential.py:6
    top = maximum(top, v2);
  }});
  {
    const F c0_before = row<F>(p.c0);
    put<F>(w.c0_old, c0_before);
    put<F>(p.c0, maximum(c0_before, top));
  }
  const F v3 = row<F>(p.c0);
  const B v4 = all<F>(inf) == v3;
  const F v5 = where(v4, all<F>(0.0f), v3);
  const B v6 = all<F>(-inf) == v3;
  const F v7 = where(v6, all<F>(-1e+30f), v5);
  put<F>(w.s2, v7);
  const F v8 = row<F>(w.c0_old);
  const F v9 = v8 - v7;
  const F v10 = exp(v9);
  put<F>(w.s1, v10);
  const F v12 = row<F>(w.s2);
  Sum<F> sum;
  for (long x = x_first; x < x_first + x_count; ++x) {
    const F v11 = row<F>(w.s0 + (x - x_first) * W);  // differential.py:6
    const F v13 = v11 * all<F>(0.17857142857142858f);  // differential.py:6
    const F v14 = v13 - v12;  // differential.py:6
    const F v15 = exp_below(v14);  // differential.py:6
    put<F>(w.s0 + (x - x_first) * W, v15);
    sum.add(v15);
  }
  {
    const F c1_before = row<F>(p.c1);
    const F v16 = row<F>(w.s1);
    const F v17 = c1_before * v16;
    put<F>(p.c1, v17 + sum.value());
  }
  F top_2 = all<F>(-inf);
  contract<64, 1, 1 * W, 1 * W, false>(in1 + (o1 * 19200 + 32) + x_first * 64, p.q1, w.s4, x_count, 32, [&](long first, long end) { for (long x = x_first + first; x < x_first + end; ++x) {
    const F v18 = row<F>(w.s4 + (x - x_first) * W);  // differential.py:6
    const F v19 = v18 * all<F>(0.17857142857142858f);  // differential.py:6
    top_2 = maximum(top_2, v19);
  }});
  {
    const F c2_before = row<F>(p.c2);
    put<F>(w.c2_old, c2_before);
    put<F>(p.c2, maximum(c2_before, top_2));
  }
  const F v20 = row<F>(p.c2);
  const B v21 = all<F>(inf) == v20;
  const F v22 = where(v21, all<F>(0.0f), v20);
  const B v23 = all<F>(-inf) == v20;
  const F v24 = where(v23, all<F>(-1e+30f), v22);
  put<F>(w.s6, v24);
  const F v25 = row<F>(w.c2_old);
  const F v26 = v25 - v24;
  const F v27 = exp(v26);
  put<F>(w.s5, v27);
  const F v29 = row<F>(w.s6);
  Sum<F> sum_2;
  for (long x = x_first; x < x_first + x_count; ++x) {
    const F v28 = row<F>(w.s4 + (x - x_first) * W);  // differential.py:6
    const F v30 = v28 * all<F>(0.17857142857142858f);  // differential.py:6
    const F v31 = v30 - v29;  // differential.py:6
    const F v32 = exp_below(v31);  // differential.py:6
    put<F>(w.s4 + (x - x_first) * W, v32);
    sum_2.add(v32);
  }
  {
    const F c3_before = row<F>(p.c3);
    const F v33 = row<F>(w.s5);
    const F v34 = c3_before * v33;
    put<F>(p.c3, v34 + sum_2.value());
  }
  const F v35 = row<F>(w.s1);
  for (long o3 = 0; o3 < 64; ++o3) {
    const F c4_before = row<F>(p.c4 + (o3) * W);
    const F v36 = c4_before * v35;
    put<F>(p.c4 + (o3) * W, v36);
  }
  contract<1, 64, 1 * W, 1 * W, true>(in3 + (o1 * 19200) + x_first * 64, w.s0, p.c4, 64, x_count);
  const F v37 = row<F>(w.s5);
  for (long o3 = 0; o3 < 64; ++o3) {
    const F c5_before = row<F>(p.c5 + (o3) * W);
    const F v38 = v37 * c5_before;
    put<F>(p.c5 + (o3) * W, v38);
  }
  contract<1, 64, 1 * W, 1 * W, true>(in3 + (o1 * 19200) + x_first * 64, w.s4, p.c5, 64, x_count);
}

// once a panel
static void epilogue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in0 = t.in0;
  float* __restrict out0 = t.out0;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  const F v39 = row<F>(p.c3);
  const real v41 = get(in0[0]);
  const F v44 = row<F>(p.c1);
  for (long o3 = 0; o3 < 64; ++o3) {
    const F v40 = row<F>(p.c5 + (o3) * W);
    const F v42 = all<F>(v41) * v40;
    const F v43 = v42 / v39;
    const F v45 = row<F>(p.c4 + (o3) * W);
    const F v46 = v45 / v44;
    const F v47 = v46 - v43;
    put<F>(w.s8 + (o3) * W, v47);
  }
  unpack<F>(out0 + (o1 * 19200) + o2 * 64, 64, w.s8, 1 * W, 64, live);
}

static void run_task(const Tensors& t, Tile& g, long panels, Panel* p, Work& w) {
  for (long i = 0; i < panels; ++i) prologue(t, g, p[i], w);
  for (long i = 0; i < panels; ++i) sweep0_start(t, g, p[i], w);
  for (g.x_first = 0; g.x_first < 300; g.x_first += 300) {
    g.x_count = 300 - g.x_first < 300 ? 300 - g.x_first : 300;
    for (long i = 0; i < panels; ++i) sweep0_block(t, g, p[i], w);
  }
  for (long i = 0; i < panels; ++i) epilogue(t, g, p[i], w);
}

}  // namespace

constexpr long PANELS = 4;
struct Thread { Tasks tasks; Panel p[PANELS]; Work w; };
// 2 x 10 tasks; returns 0, or 1 when there is no memory for scratch
extern "C" int attention0(void* const* tensors, long threads, long* visited) {
  const Tensors t = {(const float*)tensors[0], (const float*)tensors[1], (const float*)tensors[2], (const float*)tensors[3], (float*)tensors[4]};
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
      const long tile = rest % 10;
      rest /= 10;
      g.o1 = rest % 2, rest /= 2;
      long panels = 0;
      for (long first = tile * PANELS * W; panels < PANELS && first < 300; first += W, ++panels)
        own.p[panels].first = first, own.p[panels].live = 300 - first < W ? 300 - first : W;
      run_task(t, g, panels, own.p, own.w);
    }
  }
  free(memory);
  return 0;
}

}  // namespace fl

