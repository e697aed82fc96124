// kernel attention0(in0: float32[2, 8, 1024, 64], in1: float32[2, 8, 1024, 64], in2: float32[2, 8, 1024, 64], t0: float32[2, 8, 64])
//   grid   o0 < 2, o1 < 8
//   tile   o2 < 1024
//   resident  b1 < 64, o3 < 64
//   sweep x < 1024:
//     blocks where ((<x_first> <= <o2_last>) | not((max[o3 < 64](t0[o0, o1, o3]) < inf)))
//     unmasked where (<x_last> <= <o2_first>)
//     summaries cost 0.05% of the products
//     v0[o0,o1,o2,x] = where((<x> <= <o2>), (sum[b1 < 64]((in0[o0, o1, x, b1] * in1[o0, o1, o2, b1])) / 8.0), -inf)    # causal.py:9
//     c0[o0,o1,o2] max= v0
//     v1[o0,o1,o2,x] = exp((v0 - c0))    # causal.py:10
//     c1[o0,o1,o2,o3] sum= (in2[o0, o1, x, o3] * v1)    rescaled by exp((c0_before - c0))
//     c2[o0,o1,o2] sum= v1    rescaled by exp((c0_before - c0))
//   out0[o0, o1, o2, o3] = (c1 / c2)
#define FL_BITS 128
#include "flashlight.h"

namespace fl {

namespace {

struct Tensors {
  const float* in0;
  const float* in1;
  const float* in2;
  const float* t0;
  float* out0;
};
struct Tile {
  long o0;
  long o1;
  long x_first, x_count;
  long visited;  // key blocks of swept axes that were not skipped
};
struct Panel {
  long first, live;  // position of lane 0, lanes that exist
  alignas(64) real c0[1 * W];  // [lane]
  alignas(64) real c1[64 * W];  // [o3, lane]
  alignas(64) real c2[1 * W];  // [lane]
  alignas(64) real q0[64 * W];  // [b1, lane]
};
struct Work {
  alignas(64) real c0_old[1 * W];  // [lane]
  alignas(64) real s1[384 * W];  // [x, lane]
  alignas(64) real s3[1 * W];  // [lane]
  alignas(64) real s2[1 * W];  // [lane]
  alignas(64) real s5[64 * W];  // [o3, lane]
};

// once a panel: what the sweeps do not change
static void prologue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in1 = t.in1;
  const long o0 = g.o0;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  pack(p.q0, 1 * W, in1 + (o0 * 524288 + o1 * 65536) + o2 * 64, 64, 64, live);
}

// before the first block
static void sweep0_start(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const long live = p.live;
  put<F>(p.c0, all<F>(-inf));
  for (long o3 = 0; o3 < 64; ++o3) {
    put<F>(p.c1 + (o3) * W, all<F>(0));
  }
  put<F>(p.c2, all<F>(0));
}

// a block for one panel
template <bool FULL>
static void sweep0_block(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const float* __restrict in0 = t.in0;
  const float* __restrict in2 = t.in2;
  const long o0 = g.o0;
  const long o1 = g.o1;
  const long x_first = g.x_first;
  const long x_count = g.x_count;
  const long o2 = p.first;
  const I o2_lanes = positions(o2, 1023);
  const long live = p.live;
  F top = all<F>(-inf);
  contract<64, 1, 1 * W, 1 * W, false>(in0 + (o0 * 524288 + o1 * 65536) + x_first * 64, p.q0, w.s1, x_count, 64, [&](long first, long end) { for (long x = x_first + first; x < x_first + end; ++x) {
    const F v1 = row<F>(w.s1 + (x - x_first) * W);  // causal.py:7
    const F v2 = v1 * all<F>(0.125f);  // causal.py:7
    const B v3 = FULL ? all<B>(1) : (all<I>(x) <= o2_lanes);  // causal.py:9
    const F v4 = where(v3, v2, all<F>(-inf));  // causal.py:9
    put<F>(w.s1 + (x - x_first) * W, v4);
    top = maximum(top, v4);
  }});
  {
    const F c0_before = row<F>(p.c0);
    put<F>(w.c0_old, c0_before);
    put<F>(p.c0, maximum(c0_before, top));
  }
  const F v5 = row<F>(p.c0);
  const B v6 = all<F>(inf) == v5;
  const F v7 = where(v6, all<F>(0.0f), v5);
  const B v8 = all<F>(-inf) == v5;
  const F v9 = where(v8, all<F>(-1e+30f), v7);
  put<F>(w.s3, v9);
  const F v10 = row<F>(w.c0_old);
  const F v11 = v10 - v9;
  const F v12 = exp(v11);
  put<F>(w.s2, v12);
  const F v14 = row<F>(w.s3);
  Sum<F> sum;
  for (long x = x_first; x < x_first + x_count; ++x) {
    const F v13 = row<F>(w.s1 + (x - x_first) * W);  // causal.py:9
    const F v15 = v13 - v14;  // causal.py:10
    const F v16 = exp_below(v15);  // causal.py:10
    put<F>(w.s1 + (x - x_first) * W, v16);
    sum.add(v16);
  }
  {
    const F c2_before = row<F>(p.c2);
    const F v17 = row<F>(w.s2);
    const F v18 = c2_before * v17;
    put<F>(p.c2, v18 + sum.value());
  }
  const F v19 = row<F>(w.s2);
  for (long o3 = 0; o3 < 64; ++o3) {
    const F c1_before = row<F>(p.c1 + (o3) * W);
    const F v20 = c1_before * v19;
    put<F>(p.c1 + (o3) * W, v20);
  }
  contract<1, 64, 1 * W, 1 * W, true>(in2 + (o0 * 524288 + o1 * 65536) + x_first * 64, w.s1, p.c1, 64, x_count);
}

// once a panel
static void epilogue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  float* __restrict out0 = t.out0;
  const long o0 = g.o0;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  const F v21 = row<F>(p.c2);
  for (long o3 = 0; o3 < 64; ++o3) {
    const F v22 = row<F>(p.c1 + (o3) * W);
    const F v23 = v22 / v21;
    put<F>(w.s5 + (o3) * W, v23);
  }
  unpack<F>(out0 + (o0 * 524288 + o1 * 65536) + o2 * 64, 64, w.s5, 1 * W, 64, live);
}

static void run_task(const Tensors& t, Tile& g, long panels, Panel* p, Work& w) {
  for (long i = 0; i < panels; ++i) prologue(t, g, p[i], w);
  // 0: a block is skipped, 1: it needs masks, 2: it does not
  const auto sweep0_test = [&](long rows_first, long rows_last) {
    real acc = -inf;
    for (long o3 = 0; o3 < 64; ++o3) {
      const real v24 = get(t.t0[g.o0 * 512 + g.o1 * 64 + o3]);
      acc = maximum(acc, v24);
    }
    const bool v25 = acc < inf;
    const bool v26 = !v25;
    return [=, &t, &g](long x_from, long x_to) -> int {
      const bool v27 = x_from <= rows_last;
      const bool v28 = v27 | v26;
      const bool v29 = x_to <= rows_first;
      return v28 ? v29 ? 2 : 1 : 0;
    };
  };
  const auto sweep0 = [&](const auto& test) {
    for (long i = 0; i < panels; ++i) sweep0_start(t, g, p[i], w);
    visit(0, 1024, 64, 384, 8, test(p[0].first, p[panels - 1].first + p[panels - 1].live - 1),
          [&](long first, long count, bool full) {
      g.x_first = first, g.x_count = count;
      g.visited += (count + 63) / 64;
      if (full) for (long i = 0; i < panels; ++i) sweep0_block<true>(t, g, p[i], w);
      else if (panels == 1) sweep0_block<false>(t, g, p[0], w);
      else for (long i = 0; i < panels; ++i) {
        visit(first, first + count, 64, 384, 1, test(p[i].first, p[i].first + p[i].live - 1), [&](long from, long length, bool all) {
          g.x_first = from, g.x_count = length;
          if (all) sweep0_block<true>(t, g, p[i], w);
          else sweep0_block<false>(t, g, p[i], w);
        });
      }
    });
  };
  sweep0(sweep0_test);
  for (long i = 0; i < panels; ++i) epilogue(t, g, p[i], w);
}

}  // namespace

constexpr long PANELS = 16;
struct Thread { Tasks tasks; Panel p[PANELS]; Work w; };
// 2 x 8 x 8 tasks; returns 0, or 1 when there is no memory for scratch
extern "C" int attention0(void* const* tensors, long threads, long* visited) {
  const Tensors t = {(const float*)tensors[0], (const float*)tensors[1], (const float*)tensors[2], (const float*)tensors[3], (float*)tensors[4]};
  Thread* memory = (Thread*)aligned_alloc(64, threads * sizeof(Thread));
  if (!memory) return 1;
  for (long i = 0; i < threads; ++i)
    memory[i].tasks = {128 * i / threads, 128 * (i + 1) / threads};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const TileState state;
    const long me = omp_get_thread_num();
    Thread& own = memory[me];
    for (long i = 0; i < threads; ++i) for (long task; (task = memory[(me + i) % threads].tasks.take()) >= 0;) {
      Tile g{};
      long rest = task;
      const long tile = rest % 8;
      rest /= 8;
      g.o1 = rest % 8, rest /= 8;
      g.o0 = rest % 2, rest /= 2;
      long panels = 0;
      for (long first = tile * PANELS * W; panels < PANELS && first < 1024; first += W, ++panels)
        own.p[panels].first = first, own.p[panels].live = 1024 - first < W ? 1024 - first : W;
      run_task(t, g, panels, own.p, own.w);
#pragma omp atomic
      *visited += g.visited;
    }
  }
  free(memory);
  return 0;
}

}  // namespace fl

