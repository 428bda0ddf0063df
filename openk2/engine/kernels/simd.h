// Vectors of floats and the number formats of weights, written once with the compiler's vector types (GCC, Clang):
// the target options decide whether they become AVX-512, AVX2, NEON or SSE instructions.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
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
typedef int16_t Shorts __attribute__((vector_size(4 * LANES)));
typedef uint16_t Doubles __attribute__((vector_size(4 * LANES)));

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

// Four INT4 a 16-bit lane, stored plus 8: the values of one place, 0 to 15.
inline Shorts nibbles(Shorts packed, int place) {
    const Shorts shifted = (Shorts)((Doubles)packed >> (4 * place));
    return place == 3 ? shifted : shifted & 15;
}

// sum[i] + a[2i] * b[2i] + a[2i + 1] * b[2i + 1], exactly.
inline Ints add_pairs(Ints sum, Shorts a, Shorts b) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return sum + (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return sum + (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return sum + ((Ints)a << 16 >> 16) * ((Ints)b << 16 >> 16) + ((Ints)a >> 16) * ((Ints)b >> 16);
#endif
}

// LANES / 4 bf16 numbers, each in four lanes.
inline Floats quadruple(const uint16_t *p) {
#if defined(__AVX512BW__)
    int64_t four;
    memcpy(&four, p, 8);
    const __m512i spread = _mm512_set_epi32(0x07068080, 0x07068080, 0x07068080, 0x07068080, 0x05048080, 0x05048080,
        0x05048080, 0x05048080, 0x03028080, 0x03028080, 0x03028080, 0x03028080, 0x01008080, 0x01008080, 0x01008080,
        0x01008080);
    return (Floats)_mm512_shuffle_epi8(_mm512_set1_epi64(four), spread);
#elif defined(__AVX2__)
    int32_t two;
    memcpy(&two, p, 4);
    const __m256i spread = _mm256_set_epi32(0x03028080, 0x03028080, 0x03028080, 0x03028080, 0x01008080, 0x01008080,
        0x01008080, 0x01008080);
    return (Floats)_mm256_shuffle_epi8(_mm256_set1_epi32(two), spread);
#else
    Floats v;
    for (int i = 0; i < LANES; i++) v[i] = bf16(p[i / 4]);
    return v;
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
