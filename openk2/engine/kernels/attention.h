// Multi-head latent attention over a cache of blocks, with a running softmax: each block is read once for all queries.
// DeepSeek-V2 (arXiv 2405.04434) section 2.1, queries moved into the latent space; softmax as in FlashAttention
// (arXiv 2205.14135).
#pragma once
#include "products.h"
#include <algorithm>

// One layer's rows of a sequence: block b holds positions [b * rows, (b + 1) * rows), `width` floats each.
struct Cache {
    float *const *blocks;
    int64_t offset;  // of the layer within a block, in floats
    int64_t rows, width;

    float *at(int64_t position) const {
        return blocks[position / rows] + offset + position % rows * width;
    }
};

constexpr int64_t QUERIES = 16, PIECE = 128;

// q: `count` <= QUERIES vectors [width], scaled; query i sees the first seen[i] >= 1 positions.
// y: their mixtures [latent] of the rows' first `latent` values.
inline void attend(const float *const *q, const int64_t *seen, int64_t count, const Cache &cache, int64_t latent,
                   float *const *y) {
    alignas(64) float scores[QUERIES][PIECE];
    float *score[QUERIES];
    float highest[QUERIES], total[QUERIES] = {};
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++) {
        score[i] = scores[i];
        highest[i] = -INFINITY;
        longest = std::max(longest, seen[i]);
        std::fill(y[i], y[i] + latent, 0.0f);
    }
    for (int64_t start = 0, size; start < longest; start += size) {
        size = std::min({PIECE, longest - start, cache.rows - start % cache.rows});
        const float *rows = cache.at(start);
        dots(Plain<float>{rows, cache.width}, 0, size, q, count, cache.width, score, false);
        const int64_t padded = (size + LANES - 1) / LANES * LANES;
        for (int64_t i = 0; i < count; i++) {
            const int64_t visible = std::max<int64_t>(0, std::min(size, seen[i] - start));
            std::fill(score[i] + visible, score[i] + padded, -INFINITY);
            if (visible == 0) {
                std::fill(score[i], score[i] + padded, 0.0f);
                continue;
            }
            Floats top = all(highest[i]);
            for (int64_t k = 0; k < padded; k += LANES) {
                Floats s = load(score[i] + k);
                top = s > top ? s : top;
            }
            float peak = top[0];
            for (int lane = 1; lane < LANES; lane++) peak = std::max(peak, top[lane]);
            Floats sums = {};
            for (int64_t k = 0; k < padded; k += LANES) {
                Floats e = exponential(load(score[i] + k) - peak);
                store(score[i] + k, e);
                sums += e;
            }
            if (peak > highest[i] && start > 0) {
                const float shrink = std::exp(highest[i] - peak);
                total[i] *= shrink;
                for (int64_t c = 0; c < latent; c++) y[i][c] *= shrink;
            }
            highest[i] = peak;
            total[i] += sum(sums);
        }
        combine(rows, cache.width, size, latent, score, count, y, true);
    }
    for (int64_t i = 0; i < count; i++) {
        const float share = 1 / total[i];
        for (int64_t c = 0; c < latent; c++) y[i][c] *= share;
    }
}
