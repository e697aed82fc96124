// Reading and writing tensors: contiguous lanes, gathered lanes, and tiles that are transposed on the way.
// n is how many of the W lanes exist; the others read as zero and are never written.
#pragma once

namespace fl {

template <class T> struct stored { typedef F lanes; };  // the vector type of a stored element
template <> struct stored<bool> { typedef B lanes; };
template <> struct stored<uint8_t> { typedef I lanes; };
template <> struct stored<uint16_t> { typedef I lanes; };
template <> struct stored<int8_t> { typedef I lanes; };
template <> struct stored<int16_t> { typedef I lanes; };
template <> struct stored<int32_t> { typedef I lanes; };
template <> struct stored<int64_t> { typedef J lanes; };
template <class T> using lanes_of = typename stored<T>::lanes;

template <class L> FL_INLINE L from_array(const typename L::scalar* p) {
  L r;
  memcpy(&r.a, p, sizeof r.a);
  memcpy(&r.b, p + V, sizeof r.b);
  return r;
}
template <class L> FL_INLINE void to_array(typename L::scalar* p, L x) {
  memcpy(p, &x.a, sizeof x.a);
  memcpy(p + V, &x.b, sizeof x.b);
}
template <class L, class T> FL_INLINE typename L::scalar element(T x) {
  if constexpr (std::is_same<L, B>::value) return x ? -1 : 0;
  else return typename L::scalar(get(x));
}

#if FL_512
FL_INLINE __mmask16 first16(long n) { return __mmask16(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }
#endif

// W neighbouring elements
template <class T> FL_INLINE lanes_of<T> load(const T* p, long n) {
  typedef lanes_of<T> L;
#if FL_512 && !defined(FL_DOUBLE)
  if constexpr (std::is_same<T, float>::value)
    return {(vf)_mm512_maskz_loadu_ps(first16(n), p), (vf)_mm512_maskz_loadu_ps(first16(n - 16), p + 16)};
  if constexpr (std::is_same<T, bf16>::value)
    return {(vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first16(n), p)), 16),
            (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first16(n - 16), p + 16)), 16)};
  if constexpr (std::is_same<T, f16>::value)
    return {(vf)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first16(n), p)),
            (vf)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first16(n - 16), p + 16))};
#elif FL_256 && !defined(FL_DOUBLE)
  if (n >= W) {
    const __m128i* q = (const __m128i*)p;
    if constexpr (std::is_same<T, float>::value) return {(vf)_mm256_loadu_ps(p), (vf)_mm256_loadu_ps(p + 8)};
    if constexpr (std::is_same<T, bf16>::value)
      return {(vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), 16),
              (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)), 16)};
    if constexpr (std::is_same<T, f16>::value)
      return {(vf)_mm256_cvtph_ps(_mm_loadu_si128(q)), (vf)_mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
  }
#endif
  alignas(64) typename L::scalar t[W] = {};
  if (n >= W) for (int i = 0; i < W; i++) t[i] = element<L>(p[i]);
  else for (long i = 0; i < n; i++) t[i] = element<L>(p[i]);
  return from_array<L>(t);
}

// Elements stride apart
template <class T> FL_INLINE lanes_of<T> load_strided(const T* p, long stride, long n) {
  typedef lanes_of<T> L;
  alignas(64) typename L::scalar t[W] = {};
  for (long i = 0; i < (n < W ? n : W); i++) t[i] = element<L>(p[i * stride]);
  return from_array<L>(t);
}

// Elements at p[at]; every lane of `at` is inside the tensor.
template <class T, class N> FL_INLINE lanes_of<T> gather(const T* p, N at) {
  typedef lanes_of<T> L;
#if FL_512 && !defined(FL_DOUBLE)
  if constexpr (std::is_same<T, float>::value && std::is_same<N, I>::value)
    return {(vf)_mm512_i32gather_ps((__m512i)at.a, p, 4), (vf)_mm512_i32gather_ps((__m512i)at.b, p, 4)};
#endif
  alignas(64) typename N::scalar k[W];
  alignas(64) typename L::scalar t[W];
  to_array(k, at);
  for (int i = 0; i < W; i++) t[i] = element<L>(p[k[i]]);
  return from_array<L>(t);
}

template <class T, class L> FL_INLINE T lower(typename L::scalar x) {
  if constexpr (std::is_same<L, F>::value) return narrow<T>(x);
  else if constexpr (std::is_same<T, bool>::value) return x != 0;
  else return T(x);
}

// Adding to what other tasks may add to.
template <class T> FL_INLINE void add_to(T* p, T x) {
#pragma omp atomic
  *p += x;
}
// ADD: to what is there
template <bool ADD = false, class T, class L> FL_INLINE void store_strided(T* p, long stride, L x, long n) {
  alignas(64) typename L::scalar t[W];
  to_array(t, x);
  for (long i = 0; i < (n < W ? n : W); i++)
    if constexpr (ADD) add_to(p + i * stride, lower<T, L>(t[i]));
    else p[i * stride] = lower<T, L>(t[i]);
}
template <class T, class L> FL_INLINE void store(T* p, L x, long n) {
#if FL_512 && !defined(FL_DOUBLE)
  if constexpr (std::is_same<T, float>::value && std::is_same<L, F>::value) {
    _mm512_mask_storeu_ps(p, first16(n), (__m512)x.a);
    _mm512_mask_storeu_ps(p + 16, first16(n - 16), (__m512)x.b);
    return;
  }
#endif
  if constexpr (std::is_same<T, typename L::scalar>::value) {
    if (n >= W) return to_array(p, x);
  }
  store_strided(p, 1, x, n);
}
template <bool ADD = false, class T, class L, class N> FL_INLINE void scatter(T* p, N at, L x, long n) {
  alignas(64) typename N::scalar k[W];
  alignas(64) typename L::scalar t[W];
  to_array(k, at);
  to_array(t, x);
  for (long i = 0; i < (n < W ? n : W); i++)
    if constexpr (ADD) add_to(p + k[i], lower<T, L>(t[i]));
    else p[k[i]] = lower<T, L>(t[i]);
}
FL_INLINE real add_lanes(F x) {
  real t[V];
  vf sum = x.a + x.b;
  memcpy(t, &sum, sizeof t);
  for (int n = V / 2; n; n /= 2) for (int i = 0; i < n; i++) t[i] += t[i + n];
  return t[0];
}
template <class L> FL_INLINE typename L::scalar lane0(L x) { return x.a[0]; }

// ---------------------------------------------------------------- transposed tiles

#if FL_512 && !defined(FL_DOUBLE)
FL_INLINE void transpose16(__m512* r) {
  __m512 t[16];
  FL_UNROLL for (int i = 0; i < 8; i++) t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]), t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  FL_UNROLL for (int i = 0; i < 4; i++) {
    r[4 * i] = (__m512)_mm512_unpacklo_pd((__m512d)t[4 * i], (__m512d)t[4 * i + 2]);
    r[4 * i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[4 * i], (__m512d)t[4 * i + 2]);
    r[4 * i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)t[4 * i + 1], (__m512d)t[4 * i + 3]);
    r[4 * i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)t[4 * i + 1], (__m512d)t[4 * i + 3]);
  }
  FL_UNROLL for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88), t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  FL_UNROLL for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88), r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88), r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}
template <class T> FL_INLINE __m512 load16(const T* p, long n) {  // 32 bits a lane: floats, or the bits of an integer
  if constexpr (std::is_same<T, float>::value) return _mm512_maskz_loadu_ps(first16(n), p);
  if constexpr (std::is_same<T, int32_t>::value) return (__m512)_mm512_maskz_loadu_epi32(first16(n), p);
  if constexpr (std::is_same<T, bool>::value)  // a mask of ones
    return (__m512)_mm512_sub_epi32(_mm512_setzero_si512(), _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first16(n), p)));
  if constexpr (std::is_same<T, bf16>::value)
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first16(n), p)), 16);
  else return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first16(n), p));
}
template <class T> constexpr bool small_float = std::is_same<T, float>::value || std::is_same<T, bf16>::value || std::is_same<T, f16>::value;
template <class T> constexpr bool loads16 = small_float<T> || std::is_same<T, int32_t>::value || std::is_same<T, bool>::value;

FL_INLINE void store16(float* p, __m512 x, long n) { _mm512_mask_storeu_ps(p, first16(n), x); }
FL_INLINE void store16(f16* p, __m512 x, long n) {
  _mm256_mask_storeu_epi16(p, first16(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
FL_INLINE void store16(bf16* p, __m512 x, long n) {
  __m512i u = (__m512i)x, odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_mask_storeu_epi16(p, first16(n), _mm512_cvtepi32_epi16(r));
}
#endif

// Reads rows in the order of memory, which the processor's prefetcher follows, before they are read in another.
template <class T> FL_INLINE void touch(const T* p, long stride, long rows, long count) {
  char x = 0;
  for (long r = 0; r < rows; r++, p += stride)
    for (long c = 0; c < count * long(sizeof(T)); c += 64) x ^= ((const char*)p)[c];
  asm volatile("" : : "r"(x));
}

// out[t*step + lane] = p[lane*stride + t] for t < count
template <class T> FL_NOINLINE void pack(typename lanes_of<T>::scalar* out, long step, const T* p, long stride, long count, long n) {
  long t0 = 0;
#if FL_512 && !defined(FL_DOUBLE)
  if constexpr (loads16<T>) {
    touch(p, stride, n < W ? n : W, count);
    for (; t0 < count; t0 += 16) for (int half = 0; half < 2; half++) {
      __m512 r[16];
      FL_UNROLL for (int i = 0; i < 16; i++) r[i] = load16(p + (half * 16 + i) * stride + t0, half * 16 + i < n ? count - t0 : 0);
      transpose16(r);
      long rest = count - t0;
      float* q = (float*)out + t0 * step + half * 16;
      if (rest >= 16) { FL_UNROLL for (int i = 0; i < 16; i++) _mm512_store_ps(q + i * step, r[i]); }
      else { FL_UNROLL for (int i = 0; i < 16; i++) if (i < rest) _mm512_store_ps(q + i * step, r[i]); }
    }
    return;
  }
#endif
  for (long t = t0; t < count; t++) for (long i = 0; i < W; i++) out[t * step + i] = i < n ? element<lanes_of<T>>(p[i * stride + t]) : 0;
}

// Whether any of the `count` truth values at p[lane*stride] is `value`; false in lanes beyond n.
FL_NOINLINE B any_equal(const bool* p, long stride, long count, bool value, long n) {
  alignas(64) mask found[W] = {};
  for (long i = 0; i < (n < W ? n : W); i++, p += stride) {
#if FL_512
    const __m512i wanted = _mm512_set1_epi8(value);
    __mmask64 hits = 0;
    for (long t = 0; t < count && !hits; t += 64) {
      const __mmask64 some = count - t < 64 ? (__mmask64(1) << (count - t)) - 1 : ~__mmask64(0);
      hits = _mm512_mask_cmpeq_epi8_mask(some, _mm512_maskz_loadu_epi8(some, p + t), wanted);
    }
    found[i] = hits ? -1 : 0;
#else
    found[i] = count > 0 && memchr(p, value, count) ? -1 : 0;
#endif
  }
  return row<B>(found);
}

// p[lane*stride + t] = x[t*step + lane] for t < count
template <class L, class T> FL_NOINLINE void unpack(T* p, long stride, const typename L::scalar* x, long step, long count, long n) {
#if FL_512 && !defined(FL_DOUBLE)
  if constexpr (std::is_same<L, F>::value && small_float<T>) {
    for (long t0 = 0; t0 < count; t0 += 16) for (int half = 0; half < 2; half++) {
      __m512 r[16];
      FL_UNROLL for (int i = 0; i < 16; i++) r[i] = t0 + i < count ? _mm512_load_ps(x + (t0 + i) * step + half * 16) : _mm512_setzero_ps();
      transpose16(r);
      FL_UNROLL for (int i = 0; i < 16; i++) if (half * 16 + i < n) store16(p + (half * 16 + i) * stride + t0, r[i], count - t0);
    }
    return;
  }
#endif
  for (long i = 0; i < n && i < W; i++) for (long t = 0; t < count; t++) p[i * stride + t] = lower<T, L>(x[t * step + i]);
}

}  // namespace fl
