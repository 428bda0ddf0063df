// Products with weights as the checkpoint stores them: fp32, bf16, or INT4 in groups (compressed-tensors'
// pack-quantized). Every weight is read once for all tokens of a call. fp32 and bf16 meet fp32 activations; INT4 meets
// activations rounded to 16-bit integers, whose products the processor adds exactly and several at a time, or, as
// INT4_EXACT, fp32 activations as well.
#pragma once
#include "simd.h"
#include <algorithm>
#include <vector>

enum Format : int32_t { FP32 = 0, BF16 = 1, INT4 = 2, INT4_EXACT = 3 };

// [rows, columns]. INT4: eight integers a 32-bit word, plus 8, lowest bits first; bf16 scale [rows, columns / group].
struct Matrix {
    const void *data;
    const uint16_t *scale;
    int64_t rows, columns;
    int32_t format, group;
};

// What an INT4 matrix reads instead of x: 16-bit integers and a scale for the whole vector. An element is off by at most
// 1/65534 of the largest; a product is then off by 2e-5 of its size as a rule, and by 7e-6 * sqrt(n) of |w| |x| at most.
// In chunks of 8 * LANES elements: place by place (element 8 m + place and 8 m + 4 + place stand in 32-bit lane m, as
// the nibbles of word m do), then what corrects the 8 added to every weight. The scale comes last.
constexpr int64_t CHUNK = 8 * LANES, STRIDE = 5 * LANES;  // elements; floats of space
inline int64_t chunks(int64_t n) { return (n + CHUNK - 1) / CHUNK; }
inline int64_t rounded_size(int64_t n) { return chunks(n) * STRIDE + 1; }

// The nearest integer of |x| < 2^22: adding 1.5 * 2^23 leaves it in the lowest bits.
inline int32_t nearest(float x) {
    const float shifted = x + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    return bits - 0x4b400000;
}

inline void round_to_16_bits(const float *x, int64_t n, float *to) {
    float highest = 0, check = 0;
    for (int64_t i = 0; i < n; i++) highest = std::max(highest, std::fabs(x[i]));
    for (int64_t i = 0; i < n; i++) check += x[i] * 0;  // NaN if anything is not finite: then the scale is, too
    const float inverse = highest > 1e-30f ? 32767 / highest : 0;
    int32_t q[CHUNK], out[STRIDE];
    for (int64_t k = 0; k < n; k += CHUNK, to += STRIDE) {
        const int64_t count = std::min(CHUNK, n - k);
        if (count < CHUNK) std::fill(q, q + CHUNK, 0);
        for (int64_t i = 0; i < count; i++) q[i] = nearest(x[k + i] * inverse);
        for (int place = 0; place < 4; place++)
            for (int m = 0; m < LANES; m++)
                out[place * LANES + m] = int32_t(uint32_t(q[8 * m + 4 + place]) << 16 | uint32_t(q[8 * m + place] & 0xffff));
        for (int m = 0; m < LANES; m++) {
            int32_t total = 0;
            for (int i = 0; i < 8; i++) total += q[8 * m + i];
            out[4 * LANES + m] = -8 * total;
        }
        memcpy(to, out, sizeof out);
    }
    *to = highest / 32767 + check;
}

// A single token's product reads its rows one after another as one long stream, which is what a processor follows best
// by itself, and fetches each line AHEAD bytes before it is read, past the second-level cache: nothing comes back to it.
constexpr int64_t AHEAD = 4096;
inline void fetch_once(const void *line) { __builtin_prefetch(static_cast<const char *>(line) + AHEAD, 0, 0); }

// Several tokens' products read R rows side by side: each line read fetches one from two such tiles on. Of a line's R
// places, those from `first` on, `step` apart.
template <int R> struct Ahead {
    const char *at;
    Ahead(const void *tile, int64_t row_bytes)
        : at(static_cast<const char *>(tile) + std::max<int64_t>(2 * R * row_bytes, 8192)) {}
    void fetch(int64_t line, int first = 0, int step = 1) const {
        for (int r = first; r < R; r += step) __builtin_prefetch(at + (line * R + r) * 64, 0, 2);
    }
};

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool MANY_REGISTERS = true;  // 32, else 16
#else
constexpr bool MANY_REGISTERS = false;
#endif

// A tile of rows and tokens in registers, step by step along the columns. `Plain` is fp32 or bf16.
template <class T> struct Plain {
    static constexpr int ROWS = MANY_REGISTERS ? 4 : 3, TOKENS = MANY_REGISTERS ? 6 : 3, ALONE = MANY_REGISTERS ? 8 : 4;
    const T *data;
    int64_t stride;

    // A cache line is LINE elements. Element k of a row goes into the partial sum k % LINE, however many rows and tokens
    // are read together.
    static constexpr int64_t LINE = 64 / sizeof(T), PARTS = LINE / LANES;

    template <int R, int N> void dots(int64_t row, const float *const *x, int64_t n, float (*y)[N]) const {
        const T *w[R];
        for (int r = 0; r < R; r++) w[r] = data + (row + r) * stride;
        Floats whole[R][N];
        if constexpr (N == 1)
            for (int r = 0; r < R; r++) whole[r][0] = in_turn(w[r], x[0], n);
        else
            side_by_side<R, N>(w, x, n, whole);
        sums(whole[0], R * N, y[0]);
        for (int64_t k = n / LANES * LANES; k < n; k++)
            for (int r = 0; r < R; r++)
                for (int t = 0; t < N; t++) y[r][t] = fused(one(w[r] + k), x[t][k], y[r][t]);
    }

  private:
    static Floats in_turn(const T *w, const float *x, int64_t n) {
        Floats total[PARTS] = {};
        int64_t k = 0;
        for (; k + LINE <= n; k += LINE) {
            fetch_once(w + k);
            for (int p = 0; p < PARTS; p++) total[p] += load(w + k + p * LANES) * load(x + k + p * LANES);
        }
        for (int p = 0; p + 1 < PARTS; p++)  // of known length: total stays in registers
            if (k + (p + 1) * LANES <= n) total[p] += load(w + k + p * LANES) * load(x + k + p * LANES);
        for (int p = 1; p < PARTS; p++) total[0] += total[p];
        return total[0];
    }

    // Where the registers do not hold all partial sums of all tokens, one partial sum after the other.
    template <int R, int N>
    void side_by_side(const T *const *w, const float *const *x, int64_t n, Floats (*whole)[N]) const {
        const Ahead<R> ahead(w[0], stride * int64_t(sizeof(T)));
        constexpr int TOGETHER = R * N * PARTS <= (MANY_REGISTERS ? 24 : 9) ? PARTS : 1;
        for (int part = 0; part < PARTS; part += TOGETHER) {
            Floats total[TOGETHER][R][N] = {};
            auto step = [&](int64_t k, int p) __attribute__((always_inline)) {
                Floats a[R];
                for (int r = 0; r < R; r++) {
                    a[r] = load(w[r] + k);
                    keep(a[r]);
                }
                for (int t = 0; t < N; t++) {
                    Floats b = load(x[t] + k);
                    keep(b);
                    for (int r = 0; r < R; r++) total[p][r][t] += a[r] * b;
                }
            };
            int64_t k = part * LANES;
            for (; k + (TOGETHER - 1) * LANES + LANES <= n; k += LINE) {
                ahead.fetch(k / LINE, part, PARTS / TOGETHER);
                for (int p = 0; p < TOGETHER; p++) step(k + p * LANES, p);
            }
            for (int p = 0; p + 1 < TOGETHER; p++)
                if (k + (p + 1) * LANES <= n) step(k + p * LANES, p);
            for (int r = 0; r < R; r++)
                for (int t = 0; t < N; t++) {
                    if (part == 0) whole[r][t] = total[0][r][t];
                    else whole[r][t] += total[0][r][t];
                    for (int p = 1; p < TOGETHER; p++) whole[r][t] += total[p][r][t];
                }
        }
    }
};

// The scales of LANES words from `chunk` on, in groups of any size; 0 past the end of the row.
__attribute__((noinline)) inline Floats scales_of_words(const uint16_t *row, int64_t chunk, int64_t n, int32_t group) {
    Floats v = {};
    for (int64_t m = 0; m < LANES; m++) {
        const int64_t k = chunk * CHUNK + 8 * m;
        if (k < n) v[m] = bf16(row[k / group]);
    }
    return v;
}

template <bool GROUPS_OF_32> struct Packed {
    static constexpr int ROWS = MANY_REGISTERS ? 2 : 1, TOKENS = MANY_REGISTERS ? 6 : 3, ALONE = 4;
    const uint8_t *data;
    const uint16_t *scale;
    int64_t bytes, scales;  // of a row
    int32_t group;

    template <int R, int N> void dots(int64_t row, const float *const *x, int64_t n, float (*y)[N]) const {
        Floats total[R][N];
        if constexpr (N == 1)
            for (int r = 0; r < R; r++) add_up<1, 1>(row + r, x, n, &total[r]);
        else
            add_up<R, N>(row, x, n, total);
        sums(total[0], R * N, y[0]);
        for (int t = 0; t < N; t++)
            for (int r = 0; r < R; r++) y[r][t] *= x[t][chunks(n) * STRIDE];
    }

  private:
    template <int R, int N> void add_up(int64_t row, const float *const *x, int64_t n, Floats (*whole)[N]) const {
        const uint8_t *w[R];
        const uint16_t *s[R];
        for (int r = 0; r < R; r++) {
            w[r] = data + (row + r) * bytes;
            s[r] = scale + (row + r) * scales;
        }
        Floats total[R][N] = {};
        auto step = [&](int64_t c, const Shorts *packed, const Floats *size) __attribute__((always_inline)) {
            Shorts weight[R][4];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
                for (int i = 0; i < 4; i++) weight[r][i] = nibbles(packed[r], i);
#pragma GCC unroll 8
            for (int t = 0; t < N; t++) {
                const float *at = x[t] + c * STRIDE;
                Floats piece[5];
                for (int i = 0; i < 5; i++) {
                    piece[i] = load(at + i * LANES);
                    if constexpr (R > 1) keep(piece[i]);
                }
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    Ints sum = (Ints)piece[4];
                    for (int i = 0; i < 4; i++) sum = add_pairs(sum, weight[r][i], (Shorts)piece[i]);
                    total[r][t] += __builtin_convertvector(sum, Floats) * size[r];
                }
            }
        };
        const int64_t full = n / CHUNK;
        const Ahead<R> ahead(w[0], bytes);
        for (int64_t c = 0; c < full; c++) {
            if (CHUNK == 128 || c % (128 / CHUNK) == 0) {
                if constexpr (N == 1) fetch_once(w[0] + c * (CHUNK / 2));
                else ahead.fetch(c * CHUNK / 128);
            }
            Shorts packed[R];
            Floats size[R];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                Floats bits = load(reinterpret_cast<const float *>(w[r] + c * (CHUNK / 2)));
                keep(bits);
                packed[r] = (Shorts)bits;
                if constexpr (GROUPS_OF_32) size[r] = quadruple(s[r] + c * (CHUNK / 32));
                else size[r] = scales_of_words(s[r], c, n, group);
            }
            step(c, packed, size);
        }
        if (n % CHUNK) {
            Shorts packed[R] = {};
            Floats size[R];
            for (int r = 0; r < R; r++) {
                memcpy(&packed[r], w[r] + full * (CHUNK / 2), size_t(n % CHUNK / 2));
                size[r] = scales_of_words(s[r], full, n, group);
            }
            step(full, packed, size);
        }
        for (int r = 0; r < R; r++)
            for (int t = 0; t < N; t++) whole[r][t] = total[r][t];
    }
};

template <int R, int N, class Weights>
void write_tile(const Weights &m, int64_t row, const float *const *x, int64_t n, float *const *y, bool add) {
    float tile[R][N];
    m.template dots<R, N>(row, x, n, tile);
    for (int t = 0; t < N; t++)
        for (int r = 0; r < R; r++) y[t][row + r] = add ? y[t][row + r] + tile[r][t] : tile[r][t];
}

// The rows [begin, end) for N tokens.
template <int N, class Weights>
void write_rows(const Weights &m, int64_t begin, int64_t end, const float *const *x, int64_t n, float *const *y, bool add) {
    constexpr int R = N == 1 ? Weights::ALONE : Weights::ROWS;
    for (; begin + R <= end; begin += R) write_tile<R, N>(m, begin, x, n, y, add);
    for (; begin < end; begin++) write_tile<1, N>(m, begin, x, n, y, add);
}

// The same for up to N tokens.
template <int N, class Weights>
void write_rest(const Weights &m, int64_t begin, int64_t end, const float *const *x, int64_t tokens, int64_t n,
                float *const *y, bool add) {
    if constexpr (N > 0) {
        if (tokens == N) write_rows<N>(m, begin, end, x, n, y, add);
        else write_rest<N - 1>(m, begin, end, x, tokens, n, y, add);
    }
}

// y[t][row] (+)= W[row] . x[t] for the rows [begin, end): some rows, which stay in the cache, meet all tokens.
template <class Weights>
void dots(const Weights &m, int64_t begin, int64_t end, const float *const *x, int64_t tokens, int64_t n,
          float *const *y, bool add) {
    constexpr int64_t BLOCK = 24;
    const int64_t size = tokens <= Weights::TOKENS ? end - begin : BLOCK;
    for (int64_t stop; begin < end; begin = stop) {
        stop = std::min(begin + size, end);
        int64_t t = 0;
        for (; t + Weights::TOKENS <= tokens; t += Weights::TOKENS)
            write_rows<Weights::TOKENS>(m, begin, stop, x + t, n, y + t, add);
        write_rest<Weights::TOKENS - 1>(m, begin, stop, x + t, tokens - t, n, y + t, add);
    }
}

inline void unpack(const Matrix &m, int64_t row, float *to) {
    const uint32_t *words = static_cast<const uint32_t *>(m.data) + row * (m.columns / 8);
    const uint16_t *scale = m.scale + row * (m.columns / m.group);
    for (int64_t w = 0; w < m.columns / 8; w++) {
        const float size = bf16(scale[8 * w / m.group]);
        for (int i = 0; i < 8; i++) to[8 * w + i] = size * float(int32_t(words[w] >> (4 * i) & 15) - 8);
    }
}

// y[t][row] (+)= W[row] . x[t] for the rows [begin, end); the x of an INT4 matrix are rounded_to_16_bits.
inline void multiply(const Matrix &m, int64_t begin, int64_t end, const float *const *x, int64_t tokens,
                     float *const *y, bool add = false) {
    const int64_t n = m.columns;
    if (m.format == FP32) {
        dots(Plain<float>{static_cast<const float *>(m.data), n}, begin, end, x, tokens, n, y, add);
    } else if (m.format == BF16) {
        dots(Plain<uint16_t>{static_cast<const uint16_t *>(m.data), n}, begin, end, x, tokens, n, y, add);
    } else if (m.format == INT4_EXACT) {
        constexpr int64_t ROWS = 8;
        static thread_local std::vector<float> floats;
        floats.resize(size_t(ROWS * n));
        for (int64_t stop; begin < end; begin = stop) {
            stop = std::min(begin + ROWS, end);
            for (int64_t row = begin; row < stop; row++) unpack(m, row, floats.data() + (row - begin) * n);
            dots(Plain<float>{floats.data() - begin * n, n}, begin, stop, x, tokens, n, y, add);
        }
    } else if (m.group == 32) {
        dots(Packed<true>{static_cast<const uint8_t *>(m.data), m.scale, n / 2, n / 32, 32}, begin, end, x, tokens, n, y, add);
    } else {
        dots(Packed<false>{static_cast<const uint8_t *>(m.data), m.scale, n / 2, n / m.group, m.group}, begin, end, x,
             tokens, n, y, add);
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
        if constexpr (N == 1)
            for (int64_t i = 0; i < V * LANES * int64_t(sizeof(T)); i += 64)
                __builtin_prefetch(reinterpret_cast<const char *>(m + (r + 16) * stride + column) + i, 0, 2);
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
    constexpr int V = !MANY_REGISTERS ? 3 : N == 1 ? 16 : 4;  // a single token reads wide pieces of rows: few streams
    int64_t c = 0;
    for (; c + V * LANES <= columns; c += V * LANES) combine_tile<N, V>(m, stride, rows, c, p, y, add);
    if constexpr (V > 4)
        for (; c + 4 * LANES <= columns; c += 4 * LANES) combine_tile<N, 4>(m, stride, rows, c, p, y, add);
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
