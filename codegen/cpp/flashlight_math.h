// Functions of the pointwise table, on vectors and on scalars.  In float: exp and log within one unit in the last place,
// others within 2.5; NaN passes.  In double: the C library, or a few units.
#pragma once

namespace fl {

// A function of the C library, lane by lane: for what is rare, and for double.
template <class Fn> FL_INLINE F each(F x, Fn fn) {
  alignas(64) real t[W];
  memcpy(t, &x, sizeof x);
  for (int i = 0; i < W; i++) t[i] = fn(t[i]);
  memcpy(&x, t, sizeof x);
  return x;
}
template <class Fn> FL_INLINE F each(F x, F y, Fn fn) {
  alignas(64) real t[W], u[W];
  memcpy(t, &x, sizeof x), memcpy(u, &y, sizeof y);
  for (int i = 0; i < W; i++) t[i] = fn(t[i], u[i]);
  memcpy(&x, t, sizeof x);
  return x;
}
#define FL_PAIR(name) FL_INLINE F name(F x) { return {name(x.a), name(x.b)}; }
#define FL_LIBRARY(name) FL_INLINE real name(real x) { return std::name(x); }
#define FL_EACH(name) FL_INLINE F name(F x) { return each(x, [](real v) { return real(std::name(v)); }); }

// ---------------------------------------------------------------- shape of the number line

FL_INLINE vf signs(vf x) { return (vf)((vb)x & (vb)splat<F>(real(-0.0))); }
FL_INLINE vf magnitude(vf x) { return (vf)((vb)x & ~(vb)splat<F>(real(-0.0))); }
FL_INLINE F abs(F x) { return {magnitude(x.a), magnitude(x.b)}; }
template <class T, class = if_integers<T>> FL_INLINE T abs(T x) { return maximum(x, -x); }
FL_INLINE real abs(real x) { return std::fabs(x); }
FL_INLINE long abs(long x) { return x < 0 ? -x : x; }
template <class T, class = if_lanes<T>> FL_INLINE T sign(T x) {
  T zero = all<T>(0), one = all<T>(1);
  return where(x > zero, one, zero) - where(x < zero, one, zero);
}
FL_INLINE real sign(real x) { return real(x > 0) - real(x < 0); }
FL_INLINE long sign(long x) { return (x > 0) - (x < 0); }
FL_INLINE F relu(F x) { return where(x < all<F>(0), all<F>(0), x); }
FL_INLINE real relu(real x) { return x < 0 ? 0 : x; }
template <class T> FL_INLINE T relu(T x) { return maximum(x, T{}); }

#if FL_512 && !defined(FL_DOUBLE)
#define FL_ROUND(name, mode) FL_INLINE vf name(vf x) { return (vf)_mm512_roundscale_ps((__m512)x, mode | _MM_FROUND_NO_EXC); } FL_PAIR(name)
FL_ROUND(floor, _MM_FROUND_TO_NEG_INF) FL_ROUND(ceil, _MM_FROUND_TO_POS_INF)
FL_ROUND(trunc, _MM_FROUND_TO_ZERO) FL_ROUND(nearbyint, _MM_FROUND_TO_NEAREST_INT)
FL_INLINE vf sqrt(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); } FL_PAIR(sqrt)
#elif FL_256 && !defined(FL_DOUBLE)
#define FL_ROUND(name, mode) FL_INLINE vf name(vf x) { return (vf)_mm256_round_ps((__m256)x, mode | _MM_FROUND_NO_EXC); } FL_PAIR(name)
FL_ROUND(floor, _MM_FROUND_TO_NEG_INF) FL_ROUND(ceil, _MM_FROUND_TO_POS_INF)
FL_ROUND(trunc, _MM_FROUND_TO_ZERO) FL_ROUND(nearbyint, _MM_FROUND_TO_NEAREST_INT)
FL_INLINE vf sqrt(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); } FL_PAIR(sqrt)
#else
FL_EACH(floor) FL_EACH(ceil) FL_EACH(trunc) FL_EACH(nearbyint)
FL_INLINE vf sqrt(vf x) {
  for (int i = 0; i < V; i++) x[i] = std::sqrt(x[i]);
  return x;
}
FL_PAIR(sqrt)
#endif
FL_LIBRARY(floor) FL_LIBRARY(ceil) FL_LIBRARY(trunc) FL_LIBRARY(nearbyint) FL_LIBRARY(sqrt)
template <class T> FL_INLINE T round(T x) { return nearbyint(x); }
FL_INLINE F rsqrt(F x) { return all<F>(1) / sqrt(x); }
FL_INLINE real rsqrt(real x) { return 1 / std::sqrt(x); }
FL_INLINE F recip(F x) { return all<F>(1) / x; }
FL_INLINE real recip(real x) { return 1 / x; }

// Division as torch defines it: floor and remainder take the sign of the divisor; an integer divided by 0 gives 0 here.
FL_INLINE real floordiv(real x, real y) {
  real m = std::fmod(x, y), q = (x - m) / y;
  if (y == 0) return x / y;
  if (m != 0 && (y < 0) != (m < 0)) q -= 1;
  real f = std::floor(q);
  return q - f > real(0.5) ? f + 1 : f;
}
FL_INLINE F floordiv(F x, F y) { return each(x, y, [](real a, real b) { return floordiv(a, b); }); }
FL_INLINE long truncdiv(long x, long y) { return y ? y == -1 ? -x : x / y : 0; }
FL_INLINE long floordiv(long x, long y) { long q = truncdiv(x, y); return q - (y && x - q * y != 0 && ((x < 0) != (y < 0))); }
FL_INLINE long rem(long x, long y) { return x - floordiv(x, y) * y; }
FL_INLINE real rem(real x, real y) { real m = std::fmod(x, y); return m != 0 && (y < 0) != (m < 0) ? m + y : m; }
FL_INLINE real truncdiv(real x, real y) { return std::trunc(x / y); }
FL_INLINE F rem(F x, F y) { return each(x, y, [](real a, real b) { return rem(a, b); }); }
FL_INLINE F truncdiv(F x, F y) { return trunc(x / y); }
#define FL_INTEGER(name) \
  template <class T, class = if_integers<T>> FL_INLINE T name(T x, T y) { \
    for (int i = 0; i < V; i++) x.a[i] = name(long(x.a[i]), long(y.a[i])), x.b[i] = name(long(x.b[i]), long(y.b[i])); \
    return x; \
  }
FL_INTEGER(floordiv) FL_INTEGER(truncdiv) FL_INTEGER(rem)

// ---------------------------------------------------------------- exponentials

#ifdef FL_DOUBLE
constexpr real EXP_LOW = -746, EXP_HIGH = 710, LOG2E = 1.4426950408889634, LN2_HI = 6.93147180369123816490e-01,
               LN2_LO = 1.90821492927058770002e-10, ROUND = 6755399441055744.0;
constexpr int BIAS = 1023, MANTISSA = 52;
#else
constexpr real EXP_LOW = -106, EXP_HIGH = 90, LOG2E = 1.44269504f, LN2_HI = 0.693359375f, LN2_LO = -2.12194440e-4f, ROUND = 12582912.f;
constexpr int BIAS = 127, MANTISSA = 23;
#endif

// Clamped to [lo, hi]; NaN passes.
FL_INLINE vf bounded(vf x, real lo, real hi) {
#if (FL_512 || FL_256) && !defined(FL_DOUBLE)
  return (vf)FL_OP(max)(FL_OP(set1)(lo), FL_OP(min)(FL_OP(set1)(hi), (vm)x));
#else
  x = x < splat<F>(lo) ? splat<F>(lo) : x;
  return x > splat<F>(hi) ? splat<F>(hi) : x;
#endif
}
FL_INLINE vf nearest(vf x) {  // for |x| < 2^22
#if FL_512 && !defined(FL_DOUBLE)
  return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  return (x + splat<F>(ROUND)) - splat<F>(ROUND);
#endif
}
FL_INLINE vf power2(vb n) { return (vf)((n + BIAS) << MANTISSA); }
FL_INLINE vf scale(vf x, vf n) {  // x * 2^n, also where 2^n itself is out of range
#if FL_512 && !defined(FL_DOUBLE)
  return (vf)_mm512_scalef_ps((__m512)x, (__m512)n);
#else
  vb k = __builtin_convertvector(n, vb), half = k >> 1;
  return x * power2(half) * power2(k - half);
#endif
}
// e^r - 1 - r over r^2 for |r| <= log(2)/2
FL_INLINE vf exp_tail(vf r) {
#ifdef FL_DOUBLE
  vf p = splat<F>(1 / 6227020800.0);
  for (double c : {1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0, 1 / 5040.0, 1 / 720.0, 1 / 120.0, 1 / 24.0, 1 / 6.0, 0.5})
    p = fma(p, r, splat<F>(c));
#else
  vf p = fma(splat<F>(1.9875691500e-4f), r, splat<F>(1.3981999507e-3f));
  p = fma(p, r, splat<F>(8.3334519073e-3f));
  p = fma(p, r, splat<F>(4.1665795894e-2f));
  p = fma(p, r, splat<F>(1.6666665459e-1f));
  p = fma(p, r, splat<F>(5.0000001201e-1f));
#endif
  return p;
}
FL_INLINE vf exp_core(vf x) {
  vf n = nearest(x * splat<F>(LOG2E));
  vf r = fma(n, splat<F>(-LN2_LO), fma(n, splat<F>(-LN2_HI), x));
#ifdef FL_DOUBLE
  return scale(fma(exp_tail(r), r * r, r) + splat<F>(1), n);
#else
  vf p = fma(splat<F>(1.38145988e-3f), r, splat<F>(8.36871658e-3f));
  p = fma(p, r, splat<F>(4.16683890e-2f));
  p = fma(p, r, splat<F>(1.66665211e-1f));
  p = fma(p, r, splat<F>(4.99999940e-1f));
  p = fma(p, r, splat<F>(1.f));
  return scale(fma(p, r, splat<F>(1.f)), n);
#endif
}
FL_INLINE vf at_least(vf x, real lo) {  // NaN passes
#if (FL_512 || FL_256) && !defined(FL_DOUBLE)
  return (vf)FL_OP(max)(FL_OP(set1)(lo), (vm)x);
#else
  return x < splat<F>(lo) ? splat<F>(lo) : x;
#endif
}
FL_INLINE vf exp(vf x) { return exp_core(bounded(x, EXP_LOW, EXP_HIGH)); }
// The same for x <= 0 or NaN (+inf gives NaN).
FL_INLINE vf exp_below(vf x) { return exp_core(at_least(x, EXP_LOW)); }
// The same to a relative error of 4e-6, for what is rounded to a 16-bit type next.
FL_INLINE vf exp_rough(vf x) {
#ifdef FL_DOUBLE
  return exp_below(x);
#else
  x = at_least(x, EXP_LOW);
  vf n = nearest(x * splat<F>(LOG2E)), r = fma(n, splat<F>(-0.69314718f), x);
  vf p = fma(splat<F>(4.15138155e-2f), r, splat<F>(1.67874977e-1f));
  p = fma(p, r, splat<F>(5.00030160e-1f));
  p = fma(p, r, splat<F>(9.99966800e-1f));
  return scale(fma(p, r, splat<F>(1.f)), n);
#endif
}
FL_INLINE vf expm1(vf x) {
  vf y = bounded(x, -60, EXP_HIGH), n = nearest(y * splat<F>(LOG2E));
  vf r = fma(n, splat<F>(-LN2_LO), fma(n, splat<F>(-LN2_HI), y)), e = fma(exp_tail(r), r * r, r);
  vf s = power2(__builtin_convertvector(n, vb) - 1), z = fma(s, e, s - splat<F>(real(0.5)));
  return x == splat<F>(0) ? x : z + z;
}
FL_INLINE vf exp2(vf x) {
  x = bounded(x, EXP_LOW * LOG2E, EXP_HIGH * LOG2E);
  vf n = nearest(x), r = (x - n) * splat<F>(real(0.69314718055994531));
  return scale(fma(exp_tail(r), r * r, r) + splat<F>(1), n);
}
FL_INLINE vf tanh(vf x) {
#ifdef FL_DOUBLE
  vf t = expm1(magnitude(x) * splat<F>(-2));
  return (vf)((vb)(-t / (splat<F>(2) + t)) | (vb)signs(x));
#else  // an odd polynomial near 0; elsewhere 1 - 2 / (e^2|x| + 1), which loses no digits there
  vf z = x * x, p = fma(splat<F>(0.00214755f), z, splat<F>(-0.00818269f));
  p = fma(p, z, splat<F>(0.02170298f));
  p = fma(p, z, splat<F>(-0.05394721f));
  p = fma(p, z, splat<F>(0.13333210f));
  p = fma(p, z, splat<F>(-0.33333331f));
  vf a = magnitude(x), far = splat<F>(1) - splat<F>(2) / (exp_core(bounded(a + a, 0, 60)) + splat<F>(1));
  return a < splat<F>(0.625f) ? fma(p * z, x, x) : (vf)((vb)far | (vb)signs(x));
#endif
}
FL_INLINE vf sigmoid(vf x) { return splat<F>(1) / (splat<F>(1) + exp(-x)); }
FL_PAIR(exp) FL_PAIR(exp_below) FL_PAIR(exp_rough) FL_PAIR(expm1) FL_PAIR(exp2) FL_PAIR(tanh) FL_PAIR(sigmoid)
FL_LIBRARY(exp) FL_LIBRARY(expm1) FL_LIBRARY(exp2) FL_LIBRARY(tanh) FL_LIBRARY(log) FL_LIBRARY(log2) FL_LIBRARY(log1p)
FL_LIBRARY(sin) FL_LIBRARY(cos) FL_LIBRARY(erf)
FL_INLINE real sigmoid(real x) { return 1 / (1 + std::exp(-x)); }
FL_INLINE real pow(real x, real y) { return std::pow(x, y); }
FL_INLINE F pow(F x, F y) { return each(x, y, [](real a, real b) { return real(std::pow(a, b)); }); }

// ---------------------------------------------------------------- logarithms and angles

#ifdef FL_DOUBLE
FL_EACH(log) FL_EACH(log2) FL_EACH(log1p) FL_EACH(sin) FL_EACH(cos) FL_EACH(erf)
#else
// x = m * 2^e with sqrt(1/2) <= m < sqrt(2); log(m) = f + tail with f = m - 1
struct Split { vf e, f, tail; };
FL_INLINE Split split_log(vf x) {
  vf big = x < splat<F>(1.17549435e-38f) ? x * splat<F>(8388608.f) : x;
  vb bits = (vb)big, t = bits - 0x3f3504f3, k = t >> 23;
  vf e = __builtin_convertvector(k, vf) - (x < splat<F>(1.17549435e-38f) ? splat<F>(23.f) : splat<F>(0.f));
  vf f = (vf)(bits - (k << 23)) - splat<F>(1.f), z = f * f;
  vf p = splat<F>(7.0376836292e-2f);
  for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    p = fma(p, f, splat<F>(c));
  return {e, f, fma(p * f, z, z * splat<F>(-0.5f))};
}
FL_INLINE vf log_limits(vf x, vf y) {  // y for positive finite x; the limits of the logarithm elsewhere
  y = x == splat<F>(inf) ? x : y;
  y = x == splat<F>(0) ? splat<F>(-inf) : y;
  return x >= splat<F>(0) ? y : splat<F>(nan);
}
FL_INLINE vf log(vf x) {
  Split s = split_log(x);
  vf tail = fma(s.e, splat<F>(-2.12194440e-4f), s.tail);
  return log_limits(x, fma(s.e, splat<F>(0.693359375f), s.f + tail));
}
FL_INLINE vf log2(vf x) {
  Split s = split_log(x);
  return log_limits(x, fma(s.f + s.tail, splat<F>(LOG2E), s.e));
}
FL_INLINE vf log1p(vf x) {
  vf u = x + splat<F>(1), lost = x - (u - splat<F>(1)), y = log(u);
  y = lost != 0 & u != splat<F>(inf) ? y + lost / u : y;
  return x == splat<F>(0) ? x : y;
}
// sine (quadrant 0) or cosine (quadrant 1) of |x| < 10^6, reduced in double
FL_INLINE vf angle(vf x, int quadrant) {
  typedef double vd __attribute__((vector_size(V * 8)));
  vf n = nearest(x * splat<F>(0.636619772f));
  vd wide = __builtin_convertvector(x, vd), k = __builtin_convertvector(n, vd);
  vf r = __builtin_convertvector(wide - k * 1.57079632673412561417 - k * 6.07710050650619224932e-11, vf);
  vf z = r * r;
  vf s = fma(fma(splat<F>(-1.9515295891e-4f), z, splat<F>(8.3321608736e-3f)), z, splat<F>(-1.6666654611e-1f));
  vf c = fma(fma(splat<F>(2.443315711809948e-5f), z, splat<F>(-1.388731625493765e-3f)), z, splat<F>(4.166664568298827e-2f));
  s = fma(s * z, r, r);
  c = fma(c * z, z, fma(z, splat<F>(-0.5f), splat<F>(1.f)));
  vb q = __builtin_convertvector(n, vb) + quadrant;
  vf y = (q & 1) != 0 ? c : s;
  return (vf)((vb)y ^ ((q & 2) << 30));
}
FL_INLINE bool any(vb x) {
  mask t = 0;
  for (int i = 0; i < V; i++) t |= x[i];
  return t != 0;
}
FL_INLINE F angles(F x, int quadrant) {
  F r = {angle(x.a, quadrant), angle(x.b, quadrant)};
  B far = !(abs(x) < all<F>(1e6f));
  if (__builtin_expect(any(far.a | far.b), 0)) r = quadrant ? each(x, [](real v) { return std::cos(v); }) : each(x, [](real v) { return std::sin(v); });
  return r;
}
FL_INLINE F sin(F x) { return angles(x, 0); }
FL_INLINE F cos(F x) { return angles(x, 1); }
// An odd polynomial near 0; elsewhere 1 - exp(-t - t q(t)), which is 1 from 4 on.  Both were fitted in double.
FL_INLINE vf erf(vf x) {
  vf a = magnitude(x), z = x * x, t = bounded(a, 0.9f, 4.f);
  vf p = splat<F>(-6.09048235e-4f), q = splat<F>(1.04331148e-5f);
  for (float c : {5.01199020e-3f, -2.67789308e-2f, 1.12821415e-1f, -3.76125246e-1f, 1.28379151e-1f}) p = fma(p, z, splat<F>(c));
  for (float c : {-3.14858102e-4f, 3.61034204e-3f, -2.36945655e-2f, 1.06159046e-1f, 6.35198057e-1f, 1.28637075e-1f}) q = fma(q, t, splat<F>(c));
  vf far = splat<F>(1) - exp_core(-fma(q, t, t));
  return a < splat<F>(0.9f) ? fma(p, x, x) : (vf)((vb)far | (vb)signs(x));
}
FL_PAIR(log) FL_PAIR(log2) FL_PAIR(log1p) FL_PAIR(erf)
#endif

// ---------------------------------------------------------------- inverse functions

FL_INLINE B signbit(F x) { return {(vb)x.a < 0, (vb)x.b < 0}; }
FL_INLINE bool signbit(real x) { return std::signbit(x); }
FL_INLINE real erfinv(real y) {  // a quotient of polynomials, then two steps of Newton's method, in double
  const double t = y, a = std::fabs(t);
  if (!(a < 1)) return a == 1 ? std::copysign(inf, y) : nan;
  double x;
  if (a <= 0.7) {
    const double z = t * t;
    x = t * (((-0.140543331 * z + 0.914624893) * z - 1.645349621) * z + 0.886226899) /
        ((((0.012229801 * z - 0.329097515) * z + 1.442710462) * z - 2.118377725) * z + 1);
  } else {
    const double z = std::sqrt(-std::log((1 - a) / 2));
    x = std::copysign((((1.641345311 * z + 3.429567803) * z - 1.624906493) * z - 1.970840454) / ((1.637067800 * z + 3.543889200) * z + 1), t);
  }
  for (int i = 0; i < 2; i++) x -= (std::erf(x) - t) / (1.1283791670955126 * std::exp(-x * x));
  return real(x);
}
FL_INLINE F erfinv(F x) { return each(x, [](real v) { return erfinv(v); }); }
FL_INLINE real erfc(real x) { return real(std::erfc(double(x))); }
FL_INLINE F erfc(F x) { return each(x, [](real v) { return erfc(v); }); }
FL_LIBRARY(asin) FL_LIBRARY(acos) FL_LIBRARY(atan) FL_LIBRARY(atanh)

#ifdef FL_DOUBLE
FL_EACH(asin) FL_EACH(acos) FL_EACH(atan) FL_EACH(atanh)
#else
constexpr float HALF_PI = 1.57079637f, HALF_PI_REST = -4.37113883e-8f;
FL_INLINE vf with_sign(vf x, vf of) { return (vf)((vb)x | (vb)signs(of)); }
template <int N> FL_INLINE vf polynomial(vf z, const float (&c)[N]) {  // the highest power first
  vf p = splat<F>(c[0]);
  for (int i = 1; i < N; i++) p = fma(p, z, splat<F>(c[i]));
  return p;
}
// asin(|x|) or asin(sqrt((1 - |x|) / 2)), the one that is at most pi/6
FL_INLINE vf small_asin(vf a, vb big) {
  vf z = big ? (splat<F>(1.f) - a) * splat<F>(0.5f) : a * a, u = big ? sqrt(z) : a;
  vf rest = big & (u != splat<F>(0)) ? fma(-u, u, z) / (u + u) : splat<F>(0);  // what the root was rounded by
  vf p = polynomial(z, {3.75651867e-2f, 1.44026149e-2f, 3.18176076e-2f, 4.45157215e-2f, 7.50051066e-2f, 1.66666597e-1f});
  return u + fma(p * z, u, rest);
}
FL_INLINE vf asin(vf x) {
  vf a = magnitude(x);
  vb big = a > splat<F>(0.5f);
  vf r = small_asin(a, big);
  return with_sign(big ? (splat<F>(HALF_PI) - (r + r)) + splat<F>(HALF_PI_REST) : r, x);
}
FL_INLINE vf acos(vf x) {
  vf a = magnitude(x);
  vb big = a > splat<F>(0.5f);
  vf r = small_asin(a, big);
  vf far = x > splat<F>(0) ? r + r : (splat<F>(2 * HALF_PI) - (r + r)) + splat<F>(2 * HALF_PI_REST);
  return big ? far : (splat<F>(HALF_PI) - with_sign(r, x)) + splat<F>(HALF_PI_REST);
}
FL_INLINE vf atan(vf x) {
  vf a = magnitude(x);
  vb far = a > splat<F>(1.f);
  vf t = far ? splat<F>(1.f) / a : a, z = t * t;
  vf p = polynomial(z, {-1.82718469e-3f, 1.10643152e-2f, -3.14554684e-2f, 5.82343191e-2f, -8.41944590e-2f, 1.09575719e-1f, -1.42652452e-1f, 1.99986383e-1f, -3.33333015e-1f});
  vf r = fma(p * z, t, t);
  return with_sign(far ? (splat<F>(HALF_PI) - r) + splat<F>(HALF_PI_REST) : r, x);
}
FL_INLINE vf atanh(vf x) {
  vf a = magnitude(x), z = a * a;
  vf p = polynomial(z, {1.78895726e-1f, -1.40577427e-3f, 9.57402512e-2f, 8.80026519e-2f, 1.11367963e-1f, 1.42844707e-1f, 2.00000286e-1f, 3.33333343e-1f});
  vf far = log1p((a + a) / (splat<F>(1.f) - a)) * splat<F>(0.5f);
  return with_sign(a < splat<F>(0.5f) ? fma(p * z, a, a) : far, x);
}
FL_PAIR(asin) FL_PAIR(acos) FL_PAIR(atan) FL_PAIR(atanh)
#endif

// Rounding to a storage type and back.
template <class T> FL_INLINE real rounded(real x) { return get(narrow<T>(x)); }
template <class T> FL_INLINE F rounded(F x) { return each(x, [](real v) { return rounded<T>(v); }); }

}  // namespace fl
