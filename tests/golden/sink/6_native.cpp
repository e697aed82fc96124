// kernel attention0(in0: float32[2], in1: float32[1, 2, 200, 32], in2: float32[1, 2, 200, 32], in3: float32[1, 2, 200, 32])
//   grid   o1 < 2
//   tile   o2 < 200
//   resident  b1 < 32, o3 < 32
//   sweep x < 200:
//     v0[o1,o2,x] = sum[b1 < 32]((in2[0, o1, o2, b1] * in1[0, o1, x, b1]))    # sink.py:5
//     v1[o1,o2,x] = ((v0 / 5.7) + (tanh(v0) * 0.1))    # sink.py:5
//     c0[o1,o2] max= v1
//     v2[o1,o2] = maximum(in0[o1], c0)    # sink.py:7
//     v3[o1,o2,x] = exp((v1 - v2))    # sink.py:7
//     c1[o1,o2,o3] sum= (v3 * in3[0, o1, x, o3])    rescaled by exp((maximum(c0_before, in0[o1]) - v2))
//     c2[o1,o2] sum= v3    rescaled by exp((maximum(c0_before, in0[o1]) - v2))
//   v4[o1,o2] = maximum(where((c0 == -inf), -1e+30, where((c0 == inf), 0.0, c0)), in0[o1])
//   v5[o1,o2] = exp(where(((abs((v2 - v4)) < inf) | (v4 == v2)), 0.0, (v4 - v2)))
//   out0[0, o1, o2, o3] = ((v5 * c1) / ((c2 * v5) + exp((in0[o1] - v2))))
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
  alignas(64) real c1[32 * W];  // [o3, lane]
  alignas(64) real c2[1 * W];  // [lane]
  alignas(64) real q0[32 * W];  // [b1, lane]
};
struct Work {
  alignas(64) real c0_old[1 * W];  // [lane]
  alignas(64) real s1[200 * W];  // [x, lane]
  alignas(64) real s3[1 * W];  // [lane]
  alignas(64) real s2[1 * W];  // [lane]
  alignas(64) real s5[32 * W];  // [o3, lane]
};

// once a panel: what the sweeps do not change
static void prologue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in2 = t.in2;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  pack(p.q0, 1 * W, in2 + (o1 * 6400) + o2 * 32, 32, 32, live);
}

// before the first block
static void sweep0_start(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const long live = p.live;
  put<F>(p.c0, all<F>(-inf));
  for (long o3 = 0; o3 < 32; ++o3) {
    put<F>(p.c1 + (o3) * W, all<F>(0));
  }
  put<F>(p.c2, all<F>(0));
}

// a block for one panel
static void sweep0_block(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in0 = t.in0;
  const float* __restrict in1 = t.in1;
  const float* __restrict in3 = t.in3;
  const long o1 = g.o1;
  const long x_first = g.x_first;
  const long x_count = g.x_count;
  const long live = p.live;
  F top = all<F>(-inf);
  contract<32, 1, 1 * W, 1 * W, false>(in1 + (o1 * 6400) + x_first * 32, p.q0, w.s1, x_count, 32, [&](long first, long end) { for (long x = x_first + first; x < x_first + end; ++x) {
    const F v1 = row<F>(w.s1 + (x - x_first) * W);  // sink.py:5
    const F v2 = tanh(v1);  // sink.py:5
    const F v3 = v2 * all<F>(0.1f);  // sink.py:5
    const F v4 = v1 * all<F>(0.17543859649122806f);  // sink.py:5
    const F v5 = v4 + v3;  // sink.py:5
    put<F>(w.s1 + (x - x_first) * W, v5);
    top = maximum(top, v5);
  }});
  {
    const F c0_before = row<F>(p.c0);
    put<F>(w.c0_old, c0_before);
    put<F>(p.c0, maximum(c0_before, top));
  }
  const F v6 = row<F>(p.c0);
  const B v7 = all<F>(inf) == v6;
  const F v8 = where(v7, all<F>(0.0f), v6);
  const B v9 = all<F>(-inf) == v6;
  const F v10 = where(v9, all<F>(-1e+30f), v8);
  const real v11 = get(in0[o1]);
  const F v12 = maximum(all<F>(v11), v10);  // sink.py:7
  put<F>(w.s3, v12);
  const F v13 = row<F>(w.c0_old);
  const F v14 = maximum(all<F>(v11), v13);  // sink.py:7
  const F v15 = v14 - v12;
  const F v16 = exp(v15);
  const B v17 = v16 == v16;
  const F v18 = where(v17, v16, all<F>(0.0f));
  put<F>(w.s2, v18);
  const F v20 = row<F>(w.s3);  // sink.py:7
  Sum<F> sum;
  for (long x = x_first; x < x_first + x_count; ++x) {
    const F v19 = row<F>(w.s1 + (x - x_first) * W);  // sink.py:5
    const F v21 = v19 - v20;  // sink.py:7
    const F v22 = exp(v21);  // sink.py:7
    put<F>(w.s1 + (x - x_first) * W, v22);
    sum.add(v22);
  }
  {
    const F c2_before = row<F>(p.c2);
    const F v23 = row<F>(w.s2);
    const F v24 = c2_before * v23;
    put<F>(p.c2, v24 + sum.value());
  }
  const F v25 = row<F>(w.s2);
  for (long o3 = 0; o3 < 32; ++o3) {
    const F c1_before = row<F>(p.c1 + (o3) * W);
    const F v26 = c1_before * v25;
    put<F>(p.c1 + (o3) * W, v26);
  }
  contract<1, 32, 1 * W, 1 * W, true>(in3 + (o1 * 6400) + x_first * 32, w.s1, p.c1, 32, x_count);
}

// once a panel
static void epilogue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in0 = t.in0;
  float* __restrict out0 = t.out0;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  const F v27 = row<F>(p.c0);
  const real v28 = get(in0[o1]);
  const F v29 = maximum(all<F>(v28), v27);  // sink.py:7
  const F v30 = all<F>(v28) - v29;  // sink.py:7
  const F v31 = exp(v30);  // sink.py:7
  const B v32 = all<F>(inf) == v27;
  const F v33 = where(v32, all<F>(0.0f), v27);
  const B v34 = all<F>(-inf) == v27;
  const F v35 = where(v34, all<F>(-1e+30f), v33);
  const F v36 = maximum(v35, all<F>(v28));
  const F v37 = v36 - v29;
  const B v38 = v36 == v29;
  const F v39 = v29 - v36;
  const F v40 = abs(v39);
  const B v41 = v40 < all<F>(inf);
  const B v42 = v41 | v38;
  const F v43 = where(v42, all<F>(0.0f), v37);
  const F v44 = exp(v43);
  const F v45 = row<F>(p.c2);
  const F v46 = v45 * v44;
  const F v47 = v46 + v31;  // sink.py:7
  for (long o3 = 0; o3 < 32; ++o3) {
    const F v48 = row<F>(p.c1 + (o3) * W);
    const F v49 = v44 * v48;
    const F v50 = v49 / v47;  // sink.py:7
    put<F>(w.s5 + (o3) * W, v50);
  }
  unpack<F>(out0 + (o1 * 6400) + o2 * 32, 32, w.s5, 1 * W, 32, live);
}

static void run_task(const Tensors& t, Tile& g, long panels, Panel* p, Work& w) {
  for (long i = 0; i < panels; ++i) prologue(t, g, p[i], w);
  for (long i = 0; i < panels; ++i) sweep0_start(t, g, p[i], w);
  for (g.x_first = 0; g.x_first < 200; g.x_first += 200) {
    g.x_count = 200 - g.x_first < 200 ? 200 - g.x_first : 200;
    for (long i = 0; i < panels; ++i) sweep0_block(t, g, p[i], w);
  }
  for (long i = 0; i < panels; ++i) epilogue(t, g, p[i], w);
}

}  // namespace

constexpr long PANELS = 3;
struct Thread { Tasks tasks; Panel p[PANELS]; Work w; };
// 2 x 9 tasks; returns 0, or 1 when there is no memory for scratch
extern "C" int attention0(void* const* tensors, long threads, long* visited) {
  const Tensors t = {(const float*)tensors[0], (const float*)tensors[1], (const float*)tensors[2], (const float*)tensors[3], (float*)tensors[4]};
  Thread* memory = (Thread*)aligned_alloc(64, threads * sizeof(Thread));
  if (!memory) return 1;
  for (long i = 0; i < threads; ++i)
    memory[i].tasks = {18 * i / threads, 18 * (i + 1) / threads};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const TileState state;
    const long me = omp_get_thread_num();
    Thread& own = memory[me];
    for (long i = 0; i < threads; ++i) for (long task; (task = memory[(me + i) % threads].tasks.take()) >= 0;) {
      Tile g;
      long rest = task;
      const long tile = rest % 9;
      rest /= 9;
      g.o1 = rest % 2, rest /= 2;
      long panels = 0;
      for (long first = tile * PANELS * W; panels < PANELS && first < 200; first += W, ++panels)
        own.p[panels].first = first, own.p[panels].live = 200 - first < W ? 200 - first : W;
      run_task(t, g, panels, own.p, own.w);
    }
  }
  free(memory);
  return 0;
}

}  // namespace fl

