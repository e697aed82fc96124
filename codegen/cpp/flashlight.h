// Vectors for generated kernels: a lane is one position of the tile's axis, and a value of the kernel is W lanes wide.
//
//   F  floats (float, or double with FL_DOUBLE)     I  32-bit integers     J  64-bit integers     B  truth values
//
// Every value is a pair of machine vectors of FL_BITS bits, so that two independent chains are always in flight.
// FL_BITS and FL_DOUBLE are set by the kernel; instructions are chosen by what the compiler was told the machine has.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <omp.h>
#include <type_traits>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define FL_INLINE static inline __attribute__((always_inline))
#define FL_NOINLINE static __attribute__((noinline))
#define FL_UNROLL _Pragma("GCC unroll 32")

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__) && FL_BITS == 512
#define FL_512 1
#elif defined(__AVX2__) && defined(__FMA__) && FL_BITS == 256
#define FL_256 1
#endif

namespace fl {

#ifdef FL_DOUBLE
typedef double real;
typedef int64_t mask;
#else
typedef float real;
typedef int32_t mask;
#endif

constexpr int BYTES = FL_BITS / 8, V = BYTES / int(sizeof(real)), W = 2 * V;
constexpr real inf = std::numeric_limits<real>::infinity(), nan = std::numeric_limits<real>::quiet_NaN();

typedef real vf __attribute__((vector_size(BYTES)));
typedef mask vb __attribute__((vector_size(BYTES)));
typedef int32_t vi __attribute__((vector_size(V * 4)));
typedef int64_t vj __attribute__((vector_size(V * 8)));

struct F { typedef real scalar; typedef vf vec; vf a, b; };
struct I { typedef int32_t scalar; typedef vi vec; vi a, b; };
struct J { typedef int64_t scalar; typedef vj vec; vj a, b; };
struct B { typedef mask scalar; typedef vb vec; vb a, b; };

template <class T> constexpr bool lanes = std::is_same<T, F>::value || std::is_same<T, I>::value ||
                                          std::is_same<T, J>::value || std::is_same<T, B>::value;
template <class... T> using if_lanes = typename std::enable_if<(lanes<T> && ...)>::type;
template <class T> using if_integers = typename std::enable_if<std::is_same<T, I>::value || std::is_same<T, J>::value>::type;

// FL_OP: an instruction on the machine's own vectors of reals, where it multiplies and adds in one.
#if FL_512 && defined(FL_DOUBLE)
typedef __m512d vm;
#define FL_OP(name) _mm512_##name##_pd
#elif FL_512
typedef __m512 vm;
#define FL_OP(name) _mm512_##name##_ps
#elif FL_256 && defined(FL_DOUBLE)
typedef __m256d vm;
#define FL_OP(name) _mm256_##name##_pd
#elif FL_256
typedef __m256 vm;
#define FL_OP(name) _mm256_##name##_ps
#elif defined(__FMA__) && defined(FL_DOUBLE)
typedef __m128d vm;
#define FL_OP(name) _mm_##name##_pd
#elif defined(__FMA__)
typedef __m128 vm;
#define FL_OP(name) _mm_##name##_ps
#endif

// ---------------------------------------------------------------- storage types

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

template <class To, class From> FL_INLINE To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}

FL_INLINE float widen(bf16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }
FL_INLINE float widen(f16 x) {  // exact: subnormals through a multiplication by 2^112
  uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13, sign = uint32_t(x.bits & 0x8000) << 16;
  float y = bits_as<float>(magnitude) * bits_as<float>(uint32_t(239) << 23);
  if ((x.bits & 0x7c00) == 0x7c00) y = bits_as<float>(0x7f800000u | magnitude);
  return bits_as<float>(bits_as<uint32_t>(y) | sign);
}
FL_INLINE bf16 to_bf16(float x) {
  uint32_t u = bits_as<uint32_t>(x);
  return {uint16_t(x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}
FL_INLINE f16 to_f16(float x) {  // round to nearest, ties to even
  uint32_t u = bits_as<uint32_t>(x), sign = (u >> 16) & 0x8000, m = u & 0x7fffffff;
  if (m > 0x7f800000) return {uint16_t(sign | 0x7e00)};
  if (m >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
  if (m < 0x38800000) return {uint16_t(sign | (bits_as<uint32_t>(bits_as<float>(m) + 0.5f) - 0x3f000000))};
  return {uint16_t(sign | ((m - 0x38000000 + 0xfff + ((m >> 13) & 1)) >> 13))};
}

// The scalar a stored element stands for.
FL_INLINE real get(float x) { return x; }
FL_INLINE real get(double x) { return real(x); }
FL_INLINE real get(bf16 x) { return widen(x); }
FL_INLINE real get(f16 x) { return widen(x); }
FL_INLINE bool get(bool x) { return x; }
template <class T, class = typename std::enable_if<std::is_integral<T>::value>::type> FL_INLINE long get(T x) { return long(x); }

template <class T> FL_INLINE T narrow(real x) {
  if constexpr (std::is_same<T, bf16>::value) return to_bf16(float(x));
  else if constexpr (std::is_same<T, f16>::value) return to_f16(float(x));
  else return T(x);
}

// ---------------------------------------------------------------- making vectors

template <class T> FL_INLINE typename T::vec splat(typename T::scalar x) {
#if FL_512 || FL_256
  if constexpr (std::is_same<T, F>::value) return (vf)FL_OP(set1)(x);
#endif
  return x - typename T::vec{};
}

// The same scalar in every lane; truth is a mask of ones.
template <class T> FL_INLINE T all(typename T::scalar x) {
  if constexpr (std::is_same<T, B>::value) x = x ? -1 : 0;
  return {splat<T>(x), splat<T>(x)};
}

// first, first + 1, ... but never beyond last: lanes past the end repeat the last position.
FL_INLINE I positions(long first, long last) {
  I r;
  for (int i = 0; i < V; i++) r.a[i] = i, r.b[i] = V + i;
  vi end = splat<I>(int32_t(last)), start = splat<I>(int32_t(first));
  r.a += start, r.b += start;
  return {r.a > end ? end : r.a, r.b > end ? end : r.b};
}

// ---------------------------------------------------------------- arithmetic

#define FL_BINARY(op) \
  template <class T, class = if_lanes<T>> FL_INLINE T operator op(T x, T y) { return {x.a op y.a, x.b op y.b}; }
FL_BINARY(/) FL_BINARY(&) FL_BINARY(|) FL_BINARY(^) FL_BINARY(<<) FL_BINARY(>>)
// Sums and products of 64-bit integers wrap: as signed numbers their overflow has no meaning.
typedef uint64_t vw __attribute__((vector_size(V * 8)));
#define FL_WRAPPING(op, name) \
  template <class T, class = if_lanes<T>> FL_INLINE T operator op(T x, T y) { \
    if constexpr (std::is_same<T, J>::value) return {vj(vw(x.a) op vw(y.a)), vj(vw(x.b) op vw(y.b))}; \
    else return {x.a op y.a, x.b op y.b}; \
  } \
  FL_INLINE long name(long x, long y) { return long(uint64_t(x) op uint64_t(y)); }
FL_WRAPPING(+, wrapping_add) FL_WRAPPING(-, wrapping_sub) FL_WRAPPING(*, wrapping_mul)
template <class T, class = if_lanes<T>> FL_INLINE T operator-(T x) { return {-x.a, -x.b}; }
FL_INLINE B operator!(B x) { return {~x.a, ~x.b}; }

template <class C> FL_INLINE vb as_mask(C c) {
  if constexpr (std::is_same<C, vb>::value) return c;
  else return __builtin_convertvector(c, vb);
}
#define FL_COMPARE(op) \
  template <class T, class = if_lanes<T>> FL_INLINE B operator op(T x, T y) { return {as_mask(x.a op y.a), as_mask(x.b op y.b)}; }
FL_COMPARE(<) FL_COMPARE(<=) FL_COMPARE(>) FL_COMPARE(>=) FL_COMPARE(==) FL_COMPARE(!=)

FL_INLINE F where(B c, F x, F y) { return {c.a ? x.a : y.a, c.b ? x.b : y.b}; }
FL_INLINE B where(B c, B x, B y) { return (c & x) | (!c & y); }
template <class To, class From> FL_INLINE To convert(From x) {
  return {__builtin_convertvector(x.a, typename To::vec), __builtin_convertvector(x.b, typename To::vec)};
}
template <class T, class = if_integers<T>> FL_INLINE T where(B c, T x, T y) {
  T p = convert<T>(c);
  return {p.a ? x.a : y.a, p.b ? x.b : y.b};
}
template <class T> FL_INLINE T where(bool c, T x, T y) { return c ? x : y; }

template <class T, class = if_integers<T>> FL_INLINE F to_real(T x) { return convert<F>(x); }
FL_INLINE F to_real(B x) { return where(x, all<F>(1), all<F>(0)); }
FL_INLINE real to_real(long x) { return real(x); }
FL_INLINE J to_int(F x) {  // what torch gives for NaN and for values beyond the range is the smallest integer
  J r = convert<J>(x);
  return where(x >= all<F>(real(-9.2233720368547758e18)) & x < all<F>(real(9.2233720368547758e18)), r, all<J>(INT64_MIN));
}
FL_INLINE J to_int(B x) { return -convert<J>(x); }
FL_INLINE long to_int(real x) { return x >= real(-9.2233720368547758e18) && x < real(9.2233720368547758e18) ? long(x) : INT64_MIN; }
FL_INLINE J wide(I x) { return convert<J>(x); }
FL_INLINE J wide(J x) { return x; }

// x*y + z, rounded once on machines that can, whatever the width: kernels with few rows round as those with many
FL_INLINE vf fma(vf x, vf y, vf z) {
#ifdef FL_OP
  return (vf)FL_OP(fmadd)((vm)x, (vm)y, (vm)z);
#else
  return x * y + z;
#endif
}
FL_INLINE F fma(F x, F y, F z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }

// Larger and smaller; NaN if either is.
FL_INLINE vf larger(vf x, vf y) {  // one instruction on the way from x to the result, so that running maxima are quick
#if FL_512 && !defined(FL_DOUBLE)
  __m512 p = (__m512)x, q = (__m512)y;  // max gives its second operand when either is NaN
  return (vf)_mm512_mask_mov_ps(_mm512_max_ps(q, p), _mm512_cmp_ps_mask(q, q, _CMP_UNORD_Q), q);
#elif FL_256 && !defined(FL_DOUBLE)
  __m256 p = (__m256)x, q = (__m256)y;
  return (vf)_mm256_blendv_ps(_mm256_max_ps(q, p), q, _mm256_cmp_ps(q, q, _CMP_UNORD_Q));
#else
  vf r = x > y ? x : y;
  return x != x ? x : r;
#endif
}
FL_INLINE vf smaller(vf x, vf y) {
  vf r = x < y ? x : y;
  return x != x ? x : r;
}
FL_INLINE F maximum(F x, F y) { return {larger(x.a, y.a), larger(x.b, y.b)}; }
FL_INLINE F minimum(F x, F y) { return {smaller(x.a, y.a), smaller(x.b, y.b)}; }
template <class T, class = if_integers<T>> FL_INLINE T maximum(T x, T y) { return {x.a > y.a ? x.a : y.a, x.b > y.b ? x.b : y.b}; }
template <class T, class = if_integers<T>> FL_INLINE T minimum(T x, T y) { return {x.a < y.a ? x.a : y.a, x.b < y.b ? x.b : y.b}; }
FL_INLINE real maximum(real x, real y) { return x != x ? x : x > y ? x : y != y ? y : y; }
FL_INLINE real minimum(real x, real y) { return x != x ? x : x < y ? x : y; }
FL_INLINE long maximum(long x, long y) { return x > y ? x : y; }
FL_INLINE long minimum(long x, long y) { return x < y ? x : y; }
template <class T> FL_INLINE T clamp(T x, T lo, T hi) { return minimum(maximum(x, lo), hi); }

FL_INLINE B isinf(F x) { return x == all<F>(inf) | x == all<F>(-inf); }
FL_INLINE bool isinf(real x) { return x == inf || x == -inf; }
template <class T> FL_INLINE auto isnan(T x) { return x != x; }

// Floored division and remainder by a positive constant.
template <class T> FL_INLINE T floor_div(T x, typename T::scalar by) {
  T d = all<T>(by), q = x / d;
  return where(x - q * d < all<T>(0), q - all<T>(1), q);
}
FL_INLINE long floor_div(long x, long by) { return x / by - (x % by < 0); }
template <class T> FL_INLINE auto floor_mod(T x, decltype(long(0)) by) { return x - floor_div(x, by) * all<T>(by); }
FL_INLINE long floor_mod(long x, long by) { return x - floor_div(x, by) * by; }

// Whether x is true in the first n lanes.
FL_INLINE bool every_lane(B x, long n) {
  mask met = -1;
  for (int i = 0; i < W; i++) met &= i < n ? (i < V ? x.a[i] : x.b[i - V]) : -1;
  return met != 0;
}

// Whether any of n neighbours is true.
FL_INLINE bool any_of(const bool* p, long n) { return memchr(p, 1, n) != nullptr; }

// ---------------------------------------------------------------- tasks

// Tasks that are neighbours, which share what they read.  A thread works through its own, then helps with the others'.
struct Tasks {
  alignas(64) long next;
  long end;
  long take() {  // the next one, or -1
    const long task = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
    return task < end ? task : -1;
  }
};

// ---------------------------------------------------------------- blocks of a sweep

// Cuts the positions from `from` to `size` into blocks of at most `longest`: runs of key blocks for which test(from, to), both
// inclusive, gives the same: 0 is skipped, 1 needs masks, 2 does not.  `coarse` key blocks may be tested at once.
// Calls block(first, count, whether no masks are needed).
template <class Test, class Block>
FL_INLINE void visit(long from, long size, long key_block, long longest, long coarse, const Test& test, const Block& block) {
  const long wide = key_block * coarse;
  const auto kind = [&](long at, long count) { return test(at, (at + count < size ? at + count : size) - 1); };
  while (from < size) {
    if (coarse > 1 && from % wide == 0 && kind(from, wide) == 0) {
      from += wide;
      continue;
    }
    const int here = kind(from, key_block);
    long to = from + key_block;
    if (here) {
      while (to < size && to + key_block - from <= longest && kind(to, key_block) == here) to += key_block;
      block(from, (to < size ? to : size) - from, here == 2);
    }
    from = to;
  }
}

// What becomes of a block of several key blocks: 1 unless they are alike.
template <class Test> FL_INLINE int kind_of(const Test& test, long first, long count, long key_block) {
  const long end = first + count;
  const int here = test(first, (first + key_block < end ? first + key_block : end) - 1);
  for (long from = first + key_block; from < end; from += key_block)
    if (test(from, (from + key_block < end ? from + key_block : end) - 1) != here) return 1;
  return here;
}

// ---------------------------------------------------------------- rows of W lanes in scratch

template <class T> FL_INLINE T row(const typename T::scalar* p) { return {*(const typename T::vec*)p, *(const typename T::vec*)(p + V)}; }
template <class T> FL_INLINE void put(typename T::scalar* p, T x) { *(typename T::vec*)p = x.a, *(typename T::vec*)(p + V) = x.b; }

}  // namespace fl

#include "flashlight_memory.h"
#include "flashlight_math.h"
#include "flashlight_random.h"
#include "flashlight_tiles.h"
#include "flashlight_contract.h"
