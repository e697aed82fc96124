// kernel attention0(in0: bfloat16[1, 4, 512, 64], in1: int64[512], in2: bfloat16[1, 4, 512, 64], in3: bfloat16[1, 4, 512, 64], t0: float32[4, 64], t1: int64[8], t2: int64[8], t3: int64[8])
//   grid   o1 < 4
//   tile   o2 < 512
//   resident  b1 < 64, o3 < 64
//   sweep x < 512:
//     blocks where (((bitand(any[o2 < 512](shl(1, bitand(63, in1[o2]))), t3[(x_first)//64]) != 0) & not(((t1[(x_first)//64] > max[o2 < 512](in1[o2])) | (min[o2 < 512](in1[o2]) > t2[(x_first)//64])))) | not((max[o3 < 64](t0[o1, o3]) < inf)))
//     unmasked where (((min[o2 < 512](in1[o2]) == max[o2 < 512](in1[o2])) & (t1[(x_first)//64] == t2[(x_first)//64])) & (min[o2 < 512](in1[o2]) == t1[(x_first)//64]))
//     summaries cost 0.11% of the products
//     exact if then ((exp((-1000000000.0 - c0)) <= 0.0) & (-1000000000.0 <= c0))
//     v0[o1,o2,x] = where((in1[o2] == in1[x]), (0.125 * sum[b1 < 64 as bfloat16]((in2[0, o1, o2, b1] * in0[0, o1, x, b1]))), -1000000000.0)    # documents.py:6
//     c0[o1,o2] max= v0
//     v1[o1,o2,x] = exp((v0 - c0))    # documents.py:7
//     c1[o1,o2,o3] sum= (in3[0, o1, x, o3] * v1)    rescaled by exp((c0_before - c0))
//     c2[o1,o2] sum= v1    rescaled by exp((c0_before - c0))
//   out0[0, o1, o2, o3] = (c1 / c2)
#define FL_BITS 128
#include "flashlight.h"

namespace fl {

namespace {

struct Tensors {
  const bf16* in0;
  const int64_t* in1;
  const bf16* in2;
  const bf16* in3;
  const float* t0;
  const int64_t* t1;
  const int64_t* t2;
  const int64_t* t3;
  bf16* out0;
};
struct Tile {
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
  alignas(64) real k0[24576];  // [x, b1]
  alignas(64) real k1[24576];  // [x, o3]
  alignas(64) real s1[384 * W];  // [x, lane]
  alignas(64) real s3[1 * W];  // [lane]
  alignas(64) real s2[1 * W];  // [lane]
  alignas(64) real s5[64 * W];  // [o3, lane]
};

// once a panel: what the sweeps do not change
static void prologue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const bf16* __restrict in2 = t.in2;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  pack(p.q0, 1 * W, in2 + (o1 * 32768) + o2 * 64, 64, 64, live);
}

// a block, for all panels
static void sweep0_shared(const Tensors& t, const Tile& g, Work& w) {
  const bf16* __restrict in0 = t.in0;
  const bf16* __restrict in3 = t.in3;
  const long o1 = g.o1;
  const long x_first = g.x_first;
  const long x_count = g.x_count;
  for (long x = x_first; x < x_first + x_count; ++x) {
    for (long b1 = 0; b1 < 64; b1 += W) {
      const long b1_live = 64 - b1;
      const I b1_lanes = positions(b1, 63);
      const F v1 = load(in0 + (o1 * 32768 + x * 64) + b1, b1_live);
      store(w.k0 + (x - x_first) * 64 + b1, v1, b1_live);
    }
  }
  for (long x = x_first; x < x_first + x_count; ++x) {
    for (long o3 = 0; o3 < 64; o3 += W) {
      const long o3_live = 64 - o3;
      const I o3_lanes = positions(o3, 63);
      const F v2 = load(in3 + (o1 * 32768 + x * 64) + o3, o3_live);
      store(w.k1 + (x - x_first) * 64 + o3, v2, o3_live);
    }
  }
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
  const int64_t* __restrict in1 = t.in1;
  const long x_first = g.x_first;
  const long x_count = g.x_count;
  const long o2 = p.first;
  const long live = p.live;
  const J v6 = load(in1 + (0) + o2, live);
  F top = all<F>(-inf);
  contract<64, 1, 1 * W, 1 * W, false>(w.k0, p.q0, w.s1, x_count, 64, [&](long first, long end) { for (long x = x_first + first; x < x_first + end; ++x) {
    const F v3 = row<F>(w.s1 + (x - x_first) * W);  // documents.py:5
    const F v4 = all<F>(0.125f) * v3;  // documents.py:5
    const long v5 = get(in1[x]);
    const B v7 = FULL ? all<B>(1) : (v6 == all<J>(v5));
    const F v8 = where(v7, v4, all<F>(-1000000000.0f));  // documents.py:6
    put<F>(w.s1 + (x - x_first) * W, v8);
    top = maximum(top, v8);
  }});
  {
    const F c0_before = row<F>(p.c0);
    put<F>(w.c0_old, c0_before);
    put<F>(p.c0, maximum(c0_before, top));
  }
  const F v9 = row<F>(p.c0);
  const B v10 = all<F>(inf) == v9;
  const F v11 = where(v10, all<F>(0.0f), v9);
  const B v12 = all<F>(-inf) == v9;
  const F v13 = where(v12, all<F>(-1e+30f), v11);
  put<F>(w.s3, v13);
  const F v14 = row<F>(w.c0_old);
  const F v15 = v14 - v13;
  const F v16 = exp(v15);
  put<F>(w.s2, v16);
  const F v18 = row<F>(w.s3);
  Sum<F> sum;
  for (long x = x_first; x < x_first + x_count; ++x) {
    const F v17 = row<F>(w.s1 + (x - x_first) * W);  // documents.py:6
    const F v19 = v17 - v18;  // documents.py:7
    const F v20 = exp_rough(v19);  // documents.py:7
    put<F>(w.s1 + (x - x_first) * W, v20);
    sum.add(v20);
  }
  {
    const F c2_before = row<F>(p.c2);
    const F v21 = row<F>(w.s2);
    const F v22 = c2_before * v21;
    put<F>(p.c2, v22 + sum.value());
  }
  const F v23 = row<F>(w.s2);
  for (long o3 = 0; o3 < 64; ++o3) {
    const F c1_before = row<F>(p.c1 + (o3) * W);
    const F v24 = c1_before * v23;
    put<F>(p.c1 + (o3) * W, v24);
  }
  contract<1, 64, 1 * W, 1 * W, true>(w.k1, w.s1, p.c1, 64, x_count);
}

// whether skipping blocks was exact, for every row
static bool sweep0_exact(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  const long live = p.live;
  B exact = all<B>(1);
  const F v25 = row<F>(p.c0);
  const B v26 = all<F>(-1000000000.0f) <= v25;
  const F v27 = all<F>(-1000000000.0f) - v25;
  const F v28 = exp(v27);
  const B v29 = v28 <= all<F>(0.0f);
  const B v30 = v29 & v26;
  exact = exact & v30;
  return every_lane(exact, live);
}

// once a panel
static void epilogue(const Tensors& t, const Tile& g, Panel& p, Work& w) {
  bf16* __restrict out0 = t.out0;
  const long o1 = g.o1;
  const long o2 = p.first;
  const long live = p.live;
  const F v31 = row<F>(p.c2);
  for (long o3 = 0; o3 < 64; ++o3) {
    const F v32 = row<F>(p.c1 + (o3) * W);
    const F v33 = v32 / v31;
    put<F>(w.s5 + (o3) * W, v33);
  }
  unpack<F>(out0 + (o1 * 32768) + o2 * 64, 64, w.s5, 1 * W, 64, live);
}

static void run_task(const Tensors& t, Tile& g, long panels, Panel* p, Work& w) {
  for (long i = 0; i < panels; ++i) prologue(t, g, p[i], w);
  // 0: a block is skipped, 1: it needs masks, 2: it does not
  const auto sweep0_test = [&](long rows_first, long rows_last) {
    real acc = -inf;
    for (long o3 = 0; o3 < 64; ++o3) {
      const real v34 = get(t.t0[g.o1 * 64 + o3]);
      acc = maximum(acc, v34);
    }
    const bool v35 = acc < inf;
    const bool v36 = !v35;
    long acc_2 = INT64_MAX;
    for (long o2 = rows_first; o2 <= rows_last; ++o2) {
      const long v38 = get(t.in1[o2]);
      acc_2 = minimum(acc_2, v38);
    }
    long acc_3 = INT64_MIN;
    for (long o2 = rows_first; o2 <= rows_last; ++o2) {
      const long v40 = get(t.in1[o2]);
      acc_3 = maximum(acc_3, v40);
    }
    long acc_4 = 0;
    for (long o2 = rows_first; o2 <= rows_last; ++o2) {
      const long v46 = get(t.in1[o2]);
      const long v47 = 63L & v46;
      const long v48 = 1L << v47;
      acc_4 = acc_4 | v48;
    }
    const bool v55 = acc_2 == acc_3;
    return [=, &t, &g](long x_from, long x_to) -> int {
      const long v37 = get(t.t2[x_from / 64]);
      const bool v39 = acc_2 > v37;
      const long v41 = get(t.t1[x_from / 64]);
      const bool v42 = v41 > acc_3;
      const bool v43 = v42 | v39;
      const bool v44 = !v43;
      const long v45 = get(t.t3[x_from / 64]);
      const long v49 = acc_4 & v45;
      const bool v50 = v49 != 0L;
      const bool v51 = v50 & v44;
      const bool v52 = v51 | v36;
      const bool v53 = acc_2 == v41;
      const bool v54 = v41 == v37;
      const bool v56 = v55 & v54;
      const bool v57 = v56 & v53;
      return v52 ? v57 ? 2 : 1 : 0;
    };
  };
  const auto sweep0 = [&](const auto& test) {
    for (long i = 0; i < panels; ++i) sweep0_start(t, g, p[i], w);
    visit(0, 512, 64, 384, 1, test(p[0].first, p[panels - 1].first + p[panels - 1].live - 1),
          [&](long first, long count, bool full) {
      g.x_first = first, g.x_count = count;
      g.visited += (count + 63) / 64;
      sweep0_shared(t, g, w);
      if (full) for (long i = 0; i < panels; ++i) sweep0_block<true>(t, g, p[i], w);
      else if (panels == 1) sweep0_block<false>(t, g, p[0], w);
      else for (long i = 0; i < panels; ++i) {
        const int kind = kind_of(test(p[i].first, p[i].first + p[i].live - 1), first, count, 64);
        if (kind == 2) sweep0_block<true>(t, g, p[i], w);
        else if (kind) sweep0_block<false>(t, g, p[i], w);
      }
    });
  };
  sweep0(sweep0_test);
  bool sweep0_right = true;
  for (long i = 0; i < panels; ++i) sweep0_right = sweep0_right && sweep0_exact(t, g, p[i], w);
  if (!sweep0_right) sweep0([](long, long) { return [](long, long) { return 1; }; });
  for (long i = 0; i < panels; ++i) epilogue(t, g, p[i], w);
}

}  // namespace

constexpr long PANELS = 16;
struct Thread { Tasks tasks; Panel p[PANELS]; Work w; };
// 4 x 4 tasks; returns 0, or 1 when there is no memory for scratch
extern "C" int attention0(void* const* tensors, long threads, long* visited) {
  const Tensors t = {(const bf16*)tensors[0], (const int64_t*)tensors[1], (const bf16*)tensors[2], (const bf16*)tensors[3], (const float*)tensors[4], (const int64_t*)tensors[5], (const int64_t*)tensors[6], (const int64_t*)tensors[7], (bf16*)tensors[8]};
  Thread* memory = (Thread*)aligned_alloc(64, threads * sizeof(Thread));
  if (!memory) return 1;
  for (long i = 0; i < threads; ++i)
    memory[i].tasks = {16 * i / threads, 16 * (i + 1) / threads};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const TileState state;
    const long me = omp_get_thread_num();
    Thread& own = memory[me];
    for (long i = 0; i < threads; ++i) for (long task; (task = memory[(me + i) % threads].tasks.take()) >= 0;) {
      Tile g{};
      long rest = task;
      const long tile = rest % 4;
      rest /= 4;
      g.o1 = rest % 4, rest /= 4;
      long panels = 0;
      for (long first = tile * PANELS * W; panels < PANELS && first < 512; first += W, ++panels)
        own.p[panels].first = first, own.p[panels].live = 512 - first < W ? 512 - first : W;
      run_task(t, g, panels, own.p, own.w);
#pragma omp atomic
      *visited += g.visited;
    }
  }
  free(memory);
  return 0;
}

}  // namespace fl

