// Vectors of floats and the number formats of weights, written once with the compiler's vector types (GCC, Clang):
// the target options decide whether they become AVX-512, AVX2, NEON or SSE instructions.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

inline Floats load(const float *p) {
    Floats v;
    memcpy(&v, p, sizeof v);
    return v;
}

// A value stays in its register: compilers else load it anew for each product.
inline void keep(Floats &v) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__x86_64__)
    __asm__("" : "+x"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#else
    (void)v;
#endif
}
inline void store(float *p, Floats v) { memcpy(p, &v, sizeof v); }
inline Floats all(float x) { return Floats{} + x; }

inline float bf16(uint16_t bits) {
    uint32_t word = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
}
inline Floats load(const uint16_t *p) {  // bf16: the upper half of a float
#if defined(__AVX512F__)
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#elif defined(__AVX2__)
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
#else
    Halves bits;
    memcpy(&bits, p, sizeof bits);
    return (Floats)(__builtin_convertvector(bits, Words) << 16);
#endif
}
inline float one(const float *p) { return *p; }
inline float one(const uint16_t *p) { return bf16(*p); }

// LANES bytes of two INT4 each, stored plus 8: `scale` times the values of their low and of their high nibbles. The
// products are exact: a bf16 scale has 8 bits.
inline void nibbles(const uint8_t *p, float scale, Floats &low, Floats &high) {
#if defined(__AVX512F__)
    const __m512 values = _mm512_mul_ps(
        _mm512_set_ps(7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8), _mm512_set1_ps(scale));
    __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));  // permutexvar looks at the lowest four bits only
    low = (Floats)_mm512_permutexvar_ps(wide, values);
    high = (Floats)_mm512_permutexvar_ps(_mm512_srli_epi32(wide, 4), values);
#else
#if defined(__AVX2__)
    Ints wide = (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
    Bytes bytes;
    memcpy(&bytes, p, sizeof bytes);
    Ints wide = __builtin_convertvector(bytes, Ints);
#endif
    low = __builtin_convertvector((wide & 15) - 8, Floats) * scale;
    high = __builtin_convertvector((wide >> 4) - 8, Floats) * scale;
#endif
}

inline float sum(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
#else
    float total = 0;
    for (int half = LANES / 2; half >= 1; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return total + v[0];
#endif
}

// a * b + c, rounded once where the processor can: left to itself the compiler does so in some loops and not in others.
inline float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// The sums of four vectors, added up side by side, not one after the other: each in the same order.
inline void sums_of_four(const Floats *v, float *to) {
#if defined(__AVX512F__)
    __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1)));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(__AVX2__)
    __m256 ab = _mm256_hadd_ps((__m256)v[0], (__m256)v[1]), cd = _mm256_hadd_ps((__m256)v[2], (__m256)v[3]);
    __m256 all = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
    for (int i = 0; i < 4; i++) to[i] = sum(v[i]);
#endif
}

// The sums of `count` vectors. A vector's sum does not depend on the others or on its place: what is computed for a
// token is the same, to the last digit, in whatever company.
inline void sums(const Floats *v, int count, float *to) {
    int i = 0;
    for (; i + 4 <= count; i += 4) sums_of_four(v + i, to + i);
    if (i == count) return;
    Floats rest[4] = {};
    float sum_of[4];
    for (int j = 0; i + j < count; j++) rest[j] = v[i + j];
    sums_of_four(rest, sum_of);
    for (int j = 0; i + j < count; j++) to[i + j] = sum_of[j];
}

// e^x to 2 ulp (Cephes' polynomial); NaN stays NaN, what underflows becomes 0.
inline Floats exponential(Floats x) {
    Floats bounded = x > 88.0f ? all(88.0f) : x;
    bounded = bounded < -87.3f ? all(-87.3f) : bounded;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the lowest bits
    Floats shifted = bounded * 1.44269504f + magic;
    Ints power = (Ints)shifted - (Ints)all(magic);
    Floats n = shifted - magic;
    Floats r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    p = (Floats)((Ints)p + (power << 23));
    p = x < -87.3f ? Floats{} : p;
    p = x > 88.0f ? all(INFINITY) : p;
    return x == x ? p : x;
}
