// Contractions: out[r][lane] (+)= sum over k of s[r, k] * l[k][lane].
//
// The rows of s are broadcast from memory and the W lanes of l are one packed row, so neither operand needs a horizontal
// sum.  RS and KS are the strides of s in elements, LS of l and OS of out in elements.  A micro-kernel keeps R rows of W
// lanes in registers and must not be inlined: the compiler would spill its accumulators.
#pragma once

namespace fl {

#if FL_512
constexpr int ROWS = 8;  // 16 of 32 registers accumulate
#elif FL_256
constexpr int ROWS = 6;  // 12 of 16
#else
constexpr int ROWS = 4;  // 8 of 16: without a fused multiply-add a product needs one more
#endif

// What is multiplied: reals, or pairs of bfloat16 that are neighbours along k.  A pair is 32 bits of s and one element of l,
// and then count is in pairs.
FL_INLINE vf lanes_at(const real* l) { return *(const vf*)l; }
FL_INLINE vf everywhere(const real* s) { return splat<F>(*s); }
#if defined(__AVX512BF16__) && FL_BITS >= 256 && !defined(FL_DOUBLE)
#define FL_PAIRS 1
FL_INLINE vi lanes_at(const int32_t* l) { return *(const vi*)l; }
FL_INLINE vi everywhere(const bf16* s) {
  int32_t pair;
  memcpy(&pair, s, 4);
#if FL_512
  return (vi)_mm512_set1_epi32(pair);
#else
  return (vi)_mm256_set1_epi32(pair);
#endif
}
FL_INLINE vf fma(vi s, vi l, vf acc) {
#if FL_512
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)s, (__m512bh)l);
#else
  return (vf)_mm256_dpbf16_ps((__m256)acc, (__m256bh)s, (__m256bh)l);
#endif
}
#endif

template <int R, long RS, long KS, long LS, long OS, bool ADD, class S, class L> FL_NOINLINE void micro(const S* s, const L* l, real* out, long count) {
  vf acc[R][2];
  FL_UNROLL for (int i = 0; i < R; i++) acc[i][0] = acc[i][1] = vf{};
  for (long k = 0; k < count; k++) {
    auto b0 = lanes_at(l + k * LS), b1 = lanes_at(l + k * LS + V);
    FL_UNROLL for (int i = 0; i < R; i++) {
      auto a = everywhere(s + i * RS + k * KS);
      acc[i][0] = fma(a, b0, acc[i][0]);
      acc[i][1] = fma(a, b1, acc[i][1]);
    }
  }
  FL_UNROLL for (int i = 0; i < R; i++) {
    vf* o = (vf*)(out + i * OS);
    vf* p = (vf*)(out + i * OS + V);
    *o = ADD ? *o + acc[i][0] : acc[i][0];
    *p = ADD ? *p + acc[i][1] : acc[i][1];
  }
}
// Long sums of reals are added up in parts: the error grows with the root of a part, not of the whole.
constexpr long PART = 64;
template <int R, long RS, long KS, long LS, long OS, bool ADD, class S, class L> FL_INLINE void rows_of(const S* s, const L* l, real* out, long count) {
  constexpr bool whole = std::is_same<S, bf16>::value;
  micro<R, RS, KS, LS, OS, ADD>(s, l, out, whole || count < PART ? count : PART);
  if constexpr (!whole)
    for (long k = PART; k < count; k += PART) micro<R, RS, KS, LS, OS, true>(s + k * KS, l + k * LS, out, count - k < PART ? count - k : PART);
}

#if FL_TILES
// 16 * R rows over a count that is a multiple of 16: tiles 0 to 3 are of out, 4 and 5 of l, 6 and 7 of s.
template <int R, long RS, long LS, long OS, bool ADD> FL_NOINLINE void micro_tiles(const bf16* s, const int32_t* l, real* out, long count) {
  if constexpr (ADD) tile_load<0>(out, OS * 4), tile_load<1>(out + 16, OS * 4);
  else tile_zero<0>(), tile_zero<1>();
  if constexpr (R == 2 && ADD) tile_load<2>(out + 16 * OS, OS * 4), tile_load<3>(out + 16 * OS + 16, OS * 4);
  else if constexpr (R == 2) tile_zero<2>(), tile_zero<3>();
  for (long k = 0; k < count; k += 16) {
    tile_load<4>(l + k * LS, LS * 4), tile_load<5>(l + k * LS + 16, LS * 4);
    tile_load<6>(s + 2 * k, RS * 2);
    tile_dot<0, 6, 4>(), tile_dot<1, 6, 5>();
    if constexpr (R == 2) {
      tile_load<7>(s + 16 * RS + 2 * k, RS * 2);
      tile_dot<2, 7, 4>(), tile_dot<3, 7, 5>();
    }
  }
  tile_store<0>(out, OS * 4), tile_store<1>(out + 16, OS * 4);
  if constexpr (R == 2) tile_store<2>(out + 16 * OS, OS * 4), tile_store<3>(out + 16 * OS + 16, OS * 4);
}
// The same for any count from 16.
template <int R, long RS, long LS, long OS, bool ADD> FL_INLINE void tile_rows(const bf16* s, const int32_t* l, real* out, long count) {
  const long whole = count / 16 * 16;
  micro_tiles<R, RS, LS, OS, ADD>(s, l, out, whole);
  if (whole < count) for (long r = 0; r < 16 * R; r += ROWS)
    micro<ROWS, RS, 2, LS, OS, true>(s + r * RS + 2 * whole, l + whole * LS, out + r * OS, count - whole);
}
#endif

// `then(first, end)` is called when rows first <= r < end are done, while they are still in the nearest cache.
struct Nothing {
  void operator()(long, long) const {}
};
template <long RS, long KS, long LS, long OS, bool ADD, class S, class L, class Then = Nothing>
FL_INLINE void contract(const S* s, const L* l, real* out, long rows, long count, Then then = Then()) {
  long r = 0;
#if FL_TILES
  if constexpr (KS == 2 && std::is_same<S, bf16>::value) if (count >= 16) {
    for (; r + 32 <= rows; r += 32) tile_rows<2, RS, LS, OS, ADD>(s + r * RS, l, out + r * OS, count), then(r, r + 32);
    if (r + 16 <= rows) tile_rows<1, RS, LS, OS, ADD>(s + r * RS, l, out + r * OS, count), then(r, r + 16), r += 16;
  }
#endif
  for (; r + ROWS <= rows; r += ROWS) rows_of<ROWS, RS, KS, LS, OS, ADD>(s + r * RS, l, out + r * OS, count), then(r, r + ROWS);
  if (ROWS > 4 && r + 4 <= rows) rows_of<4, RS, KS, LS, OS, ADD>(s + r * RS, l, out + r * OS, count), then(r, r + 4), r += 4;
  for (; r < rows; r++) rows_of<1, RS, KS, LS, OS, ADD>(s + r * RS, l, out + r * OS, count), then(r, r + 1);
}

// out[r*os + c] += sum over lanes i < count of s[r][i] * l[i][c], for c < width, added up before it is added: the error
// grows with the root of the number of tiles, not of all positions.  LS is a multiple of W; what l holds
// beyond the width is read and not written.
template <int R, long RS, long LS> FL_NOINLINE void micro_rows(const real* s, const real* l, real* out, long os, long count, long width) {
  vf acc[R][2];
  FL_UNROLL for (int i = 0; i < R; i++) acc[i][0] = acc[i][1] = vf{};
  for (long k = 0; k < count; k++) {
    auto b0 = lanes_at(l + k * LS), b1 = lanes_at(l + k * LS + V);
    FL_UNROLL for (int i = 0; i < R; i++) {
      auto a = everywhere(s + i * RS + k);
      acc[i][0] = fma(a, b0, acc[i][0]);
      acc[i][1] = fma(a, b1, acc[i][1]);
    }
  }
  FL_UNROLL for (int i = 0; i < R; i++) {
    const F before = load(out + i * os, width);
    store(out + i * os, F{before.a + acc[i][0], before.b + acc[i][1]}, width);
  }
}
template <long RS, long LS> FL_INLINE void add_rows(const real* s, const real* l, real* out, long os, long rows, long count, long width) {
  for (long c = 0; c < width; c += W) {
    long r = 0;
    for (; r + ROWS <= rows; r += ROWS) micro_rows<ROWS, RS, LS>(s + r * RS, l + c, out + r * os + c, os, count, width - c);
    for (; r < rows; r++) micro_rows<1, RS, LS>(s + r * RS, l + c, out + r * os + c, os, count, width - c);
  }
}

// The same for a sum over a pointwise loop, as a row's sum of weights is: its error is a factor of the whole row.
constexpr int RUN = 16;
template <class T> struct Sum {
  T run = {}, total = {};
  int count = 0;
  void add(T x) {
    run = run + x;
    if (++count == RUN) total = total + run, run = T{}, count = 0;
  }
  T value() const { return total + run; }
};

#if FL_PAIRS
// Two rows of floats as one row of pairs: the first in the low half.
FL_INLINE vi pair(vf lo, vf hi) {
#if FL_512
  __m512i x = (__m512i)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (vi)_mm512_permutexvar_epi16(order, x);
#else
  __m256i x = (__m256i)_mm256_cvtne2ps_pbh((__m256)hi, (__m256)lo);
  const __m256i order = _mm256_set_epi16(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
  return (vi)_mm256_permutexvar_epi16(order, x);
#endif
}
FL_INLINE I pair(F lo, F hi) { return {pair(lo.a, hi.a), pair(lo.b, hi.b)}; }

// Rows of floats, step elements apart, into rows of pairs; in place when out and x are the same memory.
FL_INLINE void pair_rows(int32_t* out, const real* x, long step, long count) {
  long k = 0;
  for (; k + 1 < count; k += 2) put<I>(out + k / 2 * W, pair(row<F>(x + k * step), row<F>(x + (k + 1) * step)));
  if (k < count) put<I>(out + k / 2 * W, pair(row<F>(x + k * step), all<F>(0)));
}

// s[k][r] with neighbouring r, two rows at a time, interleaved: out[k/2 * step + r*2 + k%2]; an odd last row pairs with 0.
template <class T> FL_NOINLINE void interleave(bf16* out, const T* s, long stride, long count, long width, long step) {
  for (long k = 0; k < count; k += 2) {
    const T *p = s + k * stride, *q = k + 1 < count ? p + stride : nullptr;
    bf16* o = out + k / 2 * step;
    long r = 0;
    if constexpr (std::is_same<T, bf16>::value) for (; q && r + 16 <= width; r += 16) {
      __m256i a = _mm256_loadu_si256((const __m256i*)(p + r)), b = _mm256_loadu_si256((const __m256i*)(q + r));
      __m256i lo = _mm256_unpacklo_epi16(a, b), hi = _mm256_unpackhi_epi16(a, b);
      _mm256_storeu_si256((__m256i*)(o + 2 * r), _mm256_permute2x128_si256(lo, hi, 0x20));
      _mm256_storeu_si256((__m256i*)(o + 2 * r + 16), _mm256_permute2x128_si256(lo, hi, 0x31));
    }
    for (; r < width; r++) o[2 * r] = narrow<bf16>(get(p[r])), o[2 * r + 1] = q ? narrow<bf16>(get(q[r])) : bf16{0};
  }
}
template <class T> FL_NOINLINE void interleave_strided(bf16* out, const T* s, long rs, long ks, long count, long width, long step) {
  for (long k = 0; k < count; k++) for (long r = 0; r < width; r++) out[k / 2 * step + 2 * r + k % 2] = narrow<bf16>(get(s[r * rs + k * ks]));
  if (count & 1) for (long r = 0; r < width; r++) out[count / 2 * step + 2 * r + 1] = bf16{0};
}
#if FL_512
// 16 neighbours of two rows as pairs; q may be missing
template <class T> FL_INLINE __m512 pairs16(const T* p, const T* q, long n) {
  __m512 lo = load16(p, n), hi = q ? load16(q, n) : _mm512_setzero_ps();
  if constexpr (std::is_same<T, bf16>::value) return (__m512)_mm512_or_si512(_mm512_srli_epi32((__m512i)lo, 16), (__m512i)hi);
  else return (__m512)pair((vf)lo, (vf)hi);
}
// out[r*step + k] = s[r + k*ks] rounded, 16 rows and 16 pairs at a time
template <class T> FL_INLINE void round_transposed(bf16* out, const T* s, long ks, long rows, long count, long step) {
  for (long k = 0; k < count; k += 32) for (long r = 0; r < rows; r += 16) {
    __m512 t[16];
    FL_UNROLL for (int i = 0; i < 16; i++) {
      const long lo = k + 2 * i, hi = lo + 1;
      t[i] = lo < count ? pairs16(s + r + lo * ks, hi < count ? s + r + hi * ks : nullptr, rows - r) : _mm512_setzero_ps();
    }
    transpose16(t);
    const __mmask16 pairs = first16((count - k + 1) / 2);
    FL_UNROLL for (int i = 0; i < 16; i++) if (i < rows - r) _mm512_mask_storeu_ps(out + (r + i) * step + k, pairs, t[i]);
  }
}
#endif
// out[r*step + k] = s[r*rs + k*ks] rounded; an odd last element pairs with 0
template <class T> FL_NOINLINE void round_rows(bf16* out, const T* s, long rs, long ks, long rows, long count, long step) {
#if FL_512
  if constexpr (small_float<T>) if (rs == 1 && ks != 1) return round_transposed(out, s, ks, rows, count, step);
#endif
  for (long r = 0; r < rows; r++) {
    for (long k = 0; k < count; k++) out[r * step + k] = narrow<bf16>(get(s[r * rs + k * ks]));
    if (count & 1) out[r * step + count] = bf16{0};
  }
}
#endif

}  // namespace fl
