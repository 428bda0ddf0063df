// Products with weights as the checkpoint stores them: fp32, bf16, or INT4 in groups (compressed-tensors'
// pack-quantized). Every weight is read once for all tokens of a call and turned into floats in registers.
#pragma once
#include "simd.h"
#include <vector>

enum Format : int32_t { FP32 = 0, BF16 = 1, INT4 = 2 };

// [rows, columns]. INT4: eight integers a 32-bit word, plus 8, lowest bits first; bf16 scale [rows, columns / group].
struct Matrix {
    const void *data;
    const uint16_t *scale;
    int64_t rows, columns;
    int32_t format, group;
};

// INT4 is read 16 bytes at a time, whose low nibbles are the even and whose high nibbles are the odd elements of 32:
// the vectors it meets are stored in that order.
constexpr int64_t BUNDLE = 32;
inline int64_t bundled(int64_t i) { return (i & ~(BUNDLE - 1)) | (i & 1) << 4 | (i & (BUNDLE - 1)) >> 1; }
inline void bundle(const float *from, float *to, int64_t n) {
    for (int64_t i = 0; i < n; i += BUNDLE)
        for (int64_t j = 0; j < 16; j++) {
            to[i + j] = from[i + 2 * j];
            to[i + 16 + j] = from[i + 2 * j + 1];
        }
}

// Tokens and rows of one register tile, and rows for a single token; 16 vector registers hold less than 32.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TILE_TOKENS = 6, TILE_ROWS = 4, SINGLE_ROWS = 8;
#else
constexpr int TILE_TOKENS = 3, TILE_ROWS = 3, SINGLE_ROWS = 4;
#endif

// Short rows are too short for the processor to foresee the next ones: each line fetches the one a tile further on.
constexpr int FETCH_TOKENS = 4;

// A piece of R rows in registers, step by step along the columns. `Plain` is fp32 or bf16.
template <class T> struct Plain {
    const T *data;
    int64_t stride;

    template <int R, int N> void dots(int64_t row, const float *const *x, int64_t n, float (*y)[N]) const {
        const T *w[R];
        for (int r = 0; r < R; r++) w[r] = data + (row + r) * stride;
        Floats total[R][N] = {};
        auto step = [&](int64_t k) __attribute__((always_inline)) {
            Floats a[R];
            for (int r = 0; r < R; r++) {
                a[r] = load(w[r] + k);
                if constexpr (N > 1) keep(a[r]);
            }
            for (int t = 0; t < N; t++) {
                Floats b = load(x[t] + k);
                keep(b);
                for (int r = 0; r < R; r++) total[r][t] += a[r] * b;
            }
        };
        constexpr int64_t LINE = 64 / sizeof(T);
        int64_t k = 0;
        for (; k + LINE <= n; k += LINE) {
            if constexpr (N <= FETCH_TOKENS)
                for (int r = 0; r < R; r++) __builtin_prefetch(w[r] + R * stride + k);
            for (int i = 0; i < LINE; i += LANES) step(k + i);
        }
        for (; k + LANES <= n; k += LANES) step(k);
        sums(total[0], R * N, y[0]);
        for (; k < n; k++)
            for (int r = 0; r < R; r++)
                for (int t = 0; t < N; t++) y[r][t] = fused(one(w[r] + k), x[t][k], y[r][t]);
    }
};

struct Packed {
    const uint8_t *data;
    const uint16_t *scale;
    int64_t bytes, scales;  // of a row
    int32_t bundles;        // that share one scale

    template <int R, int N> void dots(int64_t row, const float *const *x, int64_t n, float (*y)[N]) const {
        const uint8_t *w[R];
        const uint16_t *s[R];
        for (int r = 0; r < R; r++) {
            w[r] = data + (row + r) * bytes;
            s[r] = scale + (row + r) * scales;
        }
        Floats total[R][N] = {};
        auto step = [&](int64_t g) __attribute__((always_inline)) {
            const int64_t k = g * BUNDLE, of = bundles == 1 ? g : g / bundles;
            for (int half = 0; half < 16; half += LANES) {
                Floats low[R], high[R];
                for (int r = 0; r < R; r++) {
                    nibbles(w[r] + g * 16 + half, bf16(s[r][of]), low[r], high[r]);
                }
                for (int t = 0; t < N; t++) {
                    Floats even = load(x[t] + k + half), odd = load(x[t] + k + 16 + half);
                    keep(even);
                    keep(odd);
                    for (int r = 0; r < R; r++) {
                        total[r][t] += low[r] * even;
                        total[r][t] += high[r] * odd;
                    }
                }
            }
        };
        const int64_t steps = n / BUNDLE;
        int64_t g = 0;
        for (; g + 4 <= steps; g += 4) {
            if constexpr (N <= FETCH_TOKENS)
                for (int r = 0; r < R; r++) __builtin_prefetch(w[r] + R * bytes + g * 16);
            for (int i = 0; i < 4; i++) step(g + i);
        }
        for (; g < steps; g++) step(g);
        sums(total[0], R * N, y[0]);
    }
};

template <int R, int N, class Rows>
void write_dots(const Rows &rows, int64_t row, const float *const *x, int64_t n, float *const *y, bool add) {
    float tile[R][N];
    rows.template dots<R, N>(row, x, n, tile);
    for (int t = 0; t < N; t++)
        for (int r = 0; r < R; r++) y[t][row + r] = add ? y[t][row + r] + tile[r][t] : tile[r][t];
}

template <int R, class Rows>
void rows_of_tile(const Rows &rows, int64_t row, const float *const *x, int64_t tokens, int64_t n, float *const *y,
                  bool add) {
    int64_t t = 0;
    for (; t + TILE_TOKENS <= tokens; t += TILE_TOKENS) write_dots<R, TILE_TOKENS>(rows, row, x + t, n, y + t, add);
    switch (tokens - t) {
#if defined(__AVX512F__) || defined(__aarch64__)
        case 5: return write_dots<R, 5>(rows, row, x + t, n, y + t, add);
        case 4: return write_dots<R, 4>(rows, row, x + t, n, y + t, add);
        case 3: return write_dots<R, 3>(rows, row, x + t, n, y + t, add);
#endif
        case 2: return write_dots<R, 2>(rows, row, x + t, n, y + t, add);
        case 1: return write_dots<R, 1>(rows, row, x + t, n, y + t, add);
        default: return;
    }
}

// y[t][row] (+)= W[row] . x[t] for the rows [begin, end).
template <class Rows>
void dots(const Rows &rows, int64_t begin, int64_t end, const float *const *x, int64_t tokens, int64_t n,
          float *const *y, bool add) {
    int64_t row = begin;
    if (tokens == 1)
        for (; row + SINGLE_ROWS <= end; row += SINGLE_ROWS) write_dots<SINGLE_ROWS, 1>(rows, row, x, n, y, add);
    for (; row + TILE_ROWS <= end; row += TILE_ROWS) rows_of_tile<TILE_ROWS>(rows, row, x, tokens, n, y, add);
    for (; row < end; row++) rows_of_tile<1>(rows, row, x, tokens, n, y, add);
}

// Many tokens: rows become floats once, in a buffer that stays in the cache, and meet the tokens from there.
constexpr int64_t UNPACK_FROM = 4 * TILE_TOKENS;

inline void unpack(const Matrix &m, int64_t row, float *to) {
    const int64_t n = m.columns;
    if (m.format == BF16) {
        const uint16_t *from = static_cast<const uint16_t *>(m.data) + row * n;
        int64_t k = 0;
        for (; k + LANES <= n; k += LANES) store(to + k, load(from + k));
        for (; k < n; k++) to[k] = bf16(from[k]);
        return;
    }
    const uint8_t *from = static_cast<const uint8_t *>(m.data) + row * (n / 2);
    const uint16_t *scale = m.scale + row * (n / m.group);
    for (int64_t k = 0; k < n; k += BUNDLE)
        for (int half = 0; half < 16; half += LANES) {
            Floats low, high;
            nibbles(from + k / 2 + half, bf16(scale[k / m.group]), low, high);
            store(to + k + half, low);
            store(to + k + 16 + half, high);
        }
}

// y[t][row] (+)= W[row] . x[t] for the rows [begin, end); the x of an INT4 matrix are bundled.
inline void multiply(const Matrix &m, int64_t begin, int64_t end, const float *const *x, int64_t tokens,
                     float *const *y, bool add = false) {
    const int64_t n = m.columns;
    if (m.format == FP32) return dots(Plain<float>{static_cast<const float *>(m.data), n}, begin, end, x, tokens, n, y, add);
    if (tokens >= UNPACK_FROM) {
        static thread_local std::vector<float> buffer;
        buffer.resize(TILE_ROWS * n);
        for (int64_t row = begin; row < end; row += TILE_ROWS) {
            const int64_t count = row + TILE_ROWS <= end ? TILE_ROWS : end - row;
            for (int64_t r = 0; r < count; r++) unpack(m, row + r, buffer.data() + r * n);
            Plain<float> floats{buffer.data() - row * n, n};
            dots(floats, row, row + count, x, tokens, n, y, add);
        }
    } else if (m.format == BF16) {
        dots(Plain<uint16_t>{static_cast<const uint16_t *>(m.data), n}, begin, end, x, tokens, n, y, add);
    } else {
        Packed packed{static_cast<const uint8_t *>(m.data), m.scale, n / 2, n / m.group, int32_t(m.group / BUNDLE)};
        dots(packed, begin, end, x, tokens, n, y, add);
    }
}

// y[t][column] (+)= sum over r of p[t][r] * M[r][column], for N tokens and V vectors of columns.
template <int N, int V, class T>
void combine_tile(const T *m, int64_t stride, int64_t rows, int64_t column, const float *const *p, float *const *y,
                  bool add) {
    Floats total[N][V] = {};
    if (add)
        for (int t = 0; t < N; t++)
            for (int v = 0; v < V; v++) total[t][v] = load(y[t] + column + v * LANES);
    for (int64_t r = 0; r < rows; r++) {
        Floats a[V];
        for (int v = 0; v < V; v++) {
            a[v] = load(m + r * stride + column + v * LANES);
            if constexpr (N > 1) keep(a[v]);
        }
        for (int t = 0; t < N; t++)
            for (int v = 0; v < V; v++) total[t][v] += a[v] * p[t][r];
    }
    for (int t = 0; t < N; t++)
        for (int v = 0; v < V; v++) store(y[t] + column + v * LANES, total[t][v]);
}

template <int N, class T>
void combine_columns(const T *m, int64_t stride, int64_t rows, int64_t columns, const float *const *p, float *const *y,
                     bool add) {
    constexpr int V = LANES == 8 ? 3 : 4;
    int64_t c = 0;
    for (; c + V * LANES <= columns; c += V * LANES) combine_tile<N, V>(m, stride, rows, c, p, y, add);
    for (; c + LANES <= columns; c += LANES) combine_tile<N, 1>(m, stride, rows, c, p, y, add);
    for (; c < columns; c++)
        for (int t = 0; t < N; t++) {
            float total = add ? y[t][c] : 0;
            for (int64_t r = 0; r < rows; r++) total = fused(p[t][r], one(m + r * stride + c), total);
            y[t][c] = total;
        }
}

template <class T>
void combine(const T *m, int64_t stride, int64_t rows, int64_t columns, const float *const *p, int64_t tokens,
             float *const *y, bool add) {
    constexpr int N = LANES == 8 ? 3 : 4;
    int64_t t = 0;
    for (; t + N <= tokens; t += N) combine_columns<N>(m, stride, rows, columns, p + t, y + t, add);
    for (; t < tokens; t++) combine_columns<1>(m, stride, rows, columns, p + t, y + t, add);
}
