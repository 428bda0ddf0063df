// The DeepSeek-V3/Kimi K2 network for any number of new tokens of any number of sequences in one call: decoding,
// batched decoding and prefill are the same code, and every weight is read once a call.
// Legend: T tokens, H hidden, A heads, N nope, R rope, V value, C latent, E experts, I expert width, k experts a token.
#include "attention.h"
#include "pool.h"

namespace {

struct Expert {  // SwiGLU: gate and up [I, H], down [H, I]
    Matrix gate, up, down;
};

struct Layer {
    const float *attention_norm, *query_norm, *latent_norm, *mlp_norm, *bias;  // bias [E]: selects only
    Matrix query_down, query, latent, key_value, out, router;                  // without data: there is none
    Expert always;                                                             // the dense or the shared experts
    const Expert *experts;
};

struct Model {
    int64_t layers, hidden, heads, nope, rope, value, rank, experts, chosen, groups, kept_groups, renormalise;
    float eps, latent_eps, softmax_scale, routed_scale;
    const Layer *layer;
    const float *norm;
    Matrix embedding, head;
};

struct Sequence {
    const int64_t *ids;
    int64_t count;   // of new ids
    int64_t length;  // of what the cache holds already
    float *const *blocks;
};

constexpr int64_t ROWS = 32;  // of one task: whole cache lines of a result, so that tasks share none

// Rows of floats with their addresses, each at the start of a cache line; reused by later calls of the same thread.
struct Table {
    std::vector<float> values;
    std::vector<float *> rows;

    void shape(int64_t count, int64_t columns) {
        constexpr int64_t LINE = 64 / sizeof(float);
        const int64_t width = (columns + LINE - 1) / LINE * LINE;
        values.resize(size_t(count * width + LINE));
        rows.resize(size_t(count));
        const int64_t past = reinterpret_cast<uintptr_t>(values.data()) / sizeof(float) % LINE;
        for (int64_t t = 0; t < count; t++) rows[size_t(t)] = values.data() + (LINE - past) % LINE + t * width;
    }
    float *operator[](int64_t t) const { return rows[size_t(t)]; }
    const float *const *in() const { return rows.data(); }
    float *const *out() const { return rows.data(); }
};

inline float inverse_rms(const float *x, int64_t n, float eps) {
    Floats total = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Floats v = load(x + i);
        total += v * v;
    }
    float squares = sum(total);
    for (; i < n; i++) squares += x[i] * x[i];
    return 1 / std::sqrt(squares / float(n) + eps);
}

inline void rms_norm(const float *x, const float *weight, int64_t n, float eps, float *y) {
    const float scale = inverse_rms(x, n, eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * weight[i];
}

// Pairs (x0, x1), (x2, x3), ... times the complex numbers `turn`.
inline void rotate(const float *x, const float *turn, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 2) {
        const float a = x[i], b = x[i + 1];
        y[i] = a * turn[i] - b * turn[i + 1];
        y[i + 1] = a * turn[i + 1] + b * turn[i];
    }
}

struct Product {  // y[t] (+)= matrix . x[t] for t < tokens
    const Matrix *matrix;
    const float *const *x;
    float *const *y;
    int64_t tokens;
    bool add;
    int64_t step, border;  // rows of a task; tasks up to the end of this product: set by multiply_all
};

inline int64_t row_bytes(const Matrix &m) {
    return m.format == FP32 ? 4 * m.columns : m.format == BF16 ? 2 * m.columns : m.columns / 2 + 2 * m.columns / m.group;
}

// Tasks of about as many bytes each: few enough that a task is worth fetching, enough that all threads end together.
void multiply_all(Product *products, int64_t count, int threads) {
    int64_t bytes = 0, tasks = 0;
    for (int64_t i = 0; i < count; i++) bytes += products[i].matrix->rows * row_bytes(*products[i].matrix);
    const int64_t share = bytes / (threads * 8);
    for (int64_t i = 0; i < count; i++) {
        Product &p = products[i];
        const int64_t rows = share / row_bytes(*p.matrix) / ROWS * ROWS;
        p.step = threads <= 1 ? p.matrix->rows : std::max(ROWS, std::min<int64_t>(rows, 512));
        p.border = tasks += (p.matrix->rows + p.step - 1) / p.step;
    }
    parallel(tasks, threads, [&](int64_t task) {
        const Product &p = *std::upper_bound(products, products + count, task,
                                             [](int64_t task, const Product &p) { return task < p.border; });
        const int64_t own = (p.matrix->rows + p.step - 1) / p.step, begin = (task - (p.border - own)) * p.step;
        multiply(*p.matrix, begin, std::min(begin + p.step, p.matrix->rows), p.x, p.tokens, p.y, p.add);
    });
}

void multiply_all(std::initializer_list<Product> products, int threads) {
    std::vector<Product> list(products);
    multiply_all(list.data(), int64_t(list.size()), threads);
}

// A few vectors are rounded faster than other threads wake.
void round_all(const float *const *x, float *const *to, int64_t count, int64_t n, int threads) {
    parallel(count, count * n < 32768 ? 1 : threads, [&](int64_t t) { round_to_16_bits(x[t], n, to[t]); });
}

// What a matrix reads: x itself, or for INT4 x rounded.
const Table &as_read_by(const Matrix &m, const Table &x, int64_t tokens, Table &rounded, int threads) {
    if (m.format != INT4) return x;
    rounded.shape(tokens, rounded_size(m.columns));
    round_all(x.in(), rounded.out(), tokens, m.columns, threads);
    return rounded;
}

class Step {
  public:
    Step(const Model &model, const Sequence *sequences, int64_t count, const float *turns, int64_t block_rows,
         int threads)
        : m(model), turns_(turns), block_rows_(block_rows), threads_(threads) {
        for (int64_t s = 0; s < count; s++)
            for (int64_t i = 0; i < sequences[s].count; i++)
                places.push_back({&sequences[s], sequences[s].length + i});
        tokens = int64_t(places.size());
    }

    void run(float *const *hidden) {
        x.shape(tokens, m.hidden);
        for (int64_t t = 0; t < tokens; t++) {
            const Sequence &s = *places[size_t(t)].sequence;
            embed(s.ids[places[size_t(t)].position - s.length], x[t]);
        }
        for (int64_t i = 0; i < m.layers; i++) {
            attention(m.layer[i], i);
            feed_forward(m.layer[i]);
        }
        for (int64_t t = 0; t < tokens; t++) rms_norm(x[t], m.norm, m.hidden, m.eps, hidden[t]);
    }

  private:
    struct Place {
        const Sequence *sequence;
        int64_t position;
    };
    struct Group {  // queries of one task: heads [head, head + heads) of tokens [token, token + tokens) of a sequence
        int64_t token, tokens, head, heads;
    };
    struct Slot {  // a token that an expert reads, and its weight
        const Expert *expert;
        int64_t token;
        float weight;
    };
    struct Piece {  // an expert's slots
        const Expert *expert;
        int64_t begin, end;
    };

    const Model &m;
    const float *turns_;
    const int64_t block_rows_;
    const int threads_;
    std::vector<Place> places;
    int64_t tokens = 0;
    // One set a thread: the next call finds the memory it needs.
    struct Space {
        Table x, h, rounded, low, query, latent, heads, more, scores, gate, up, ready;
        std::vector<Group> groups;
        std::vector<Piece> pieces;
        std::vector<Product> products;
        std::vector<Slot> slots;
        std::vector<int64_t> chosen;
        std::vector<float> mix;
        std::vector<const float *> inputs;
        std::vector<float *> outputs;
    };
    static Space &space() {
        static thread_local Space space;
        return space;
    }
    Space &own = space();
    Table &x = own.x;

    void embed(int64_t id, float *to) const {
        const Matrix &e = m.embedding;
        if (e.format == BF16) {
            const uint16_t *row = static_cast<const uint16_t *>(e.data) + id * m.hidden;
            for (int64_t i = 0; i < m.hidden; i++) to[i] = bf16(row[i]);
            return;
        }
        memcpy(to, static_cast<const float *>(e.data) + id * m.hidden, size_t(m.hidden) * sizeof(float));
    }

    void norm_all(const Table &from, const float *weight, float eps, Table &to) const {
        parallel(tokens, tokens * m.hidden < 32768 ? 1 : threads_,
                 [&](int64_t t) { rms_norm(from[t], weight, m.hidden, eps, to[t]); });
    }

    // --- attention ---

    void attention(const Layer &layer, int64_t index) {
        Table &h = own.h;
        h.shape(tokens, m.hidden);
        norm_all(x, layer.attention_norm, m.eps, h);
        const Matrix &first = layer.query_down.data ? layer.query_down : layer.query;
        Table &query = own.query, &low = layer.query_down.data ? own.low : own.query, &latent = own.latent;
        low.shape(tokens, first.rows);
        latent.shape(tokens, m.rank + m.rope);
        const Table &input = as_read_by(first, h, tokens, own.rounded, threads_);
        const Table &other = as_read_by(layer.latent, h, tokens, own.more, threads_);
        multiply_all({{&first, input.in(), low.out(), tokens}, {&layer.latent, other.in(), latent.out(), tokens}}, threads_);
        if (layer.query_down.data) {
            for (int64_t t = 0; t < tokens; t++)
                rms_norm(low[t], layer.query_norm, layer.query.columns, m.latent_eps, low[t]);
            query.shape(tokens, layer.query.rows);
            const Table &read = as_read_by(layer.query, low, tokens, own.rounded, threads_);
            multiply_all({{&layer.query, read.in(), query.out(), tokens}}, threads_);
        }
        for (int64_t t = 0; t < tokens; t++) {
            const Place &place = places[size_t(t)];
            float *row = cache(*place.sequence, index).at(place.position);
            rms_norm(latent[t], layer.latent_norm, m.rank, m.latent_eps, row);
            rotate(latent[t] + m.rank, turns_ + place.position * m.rope, m.rope, row + m.rank);
        }
        own.heads.shape(tokens, m.heads * m.value);
        make_groups();
        parallel(int64_t(own.groups.size()), threads_,
                 [&](int64_t i) { mix_heads(layer, index, own.groups[size_t(i)], query, own.heads); });
        const Table &read = as_read_by(layer.out, own.heads, tokens, own.rounded, threads_);
        multiply_all({{&layer.out, read.in(), x.out(), tokens, true}}, threads_);
    }

    Cache cache(const Sequence &s, int64_t layer) const {
        const int64_t width = m.rank + m.rope;
        return {s.blocks, layer * block_rows_ * width, block_rows_, width};
    }

    void make_groups() {
        own.groups.clear();
        for (int64_t t = 0; t < tokens;) {
            int64_t end = t + 1;
            while (end < tokens && places[size_t(end)].sequence == places[size_t(t)].sequence) end++;
            // One token: all its heads together read the cache once. Many: tokens share the head's projections.
            const int64_t whole = (m.heads + threads_ - 1) / threads_;
            const int64_t heads = end - t == 1 ? std::min(QUERIES, whole) : std::min<int64_t>(2, m.heads);
            const int64_t step = QUERIES / heads;
            for (; t < end; t += step)
                for (int64_t head = 0; head < m.heads; head += heads)
                    own.groups.push_back({t, std::min(step, end - t), head, std::min(heads, m.heads - head)});
            t = end;
        }
    }

    void mix_heads(const Layer &layer, int64_t index, const Group &g, const Table &query, const Table &heads) const {
        static thread_local Table absorbed, mixed, turned;
        const int64_t width = m.rank + m.rope, count = g.tokens * g.heads;
        absorbed.shape(count, width);
        mixed.shape(count, m.rank);
        turned.shape(1, m.nope + m.rope);
        const float *nope[QUERIES];
        float *result[QUERIES];
        int64_t seen[QUERIES];
        for (int64_t i = 0; i < g.heads; i++) {
            const int64_t head = g.head + i;
            for (int64_t j = 0; j < g.tokens; j++) {
                const int64_t t = g.token + j;
                const float *q = query[t] + head * (m.nope + m.rope);
                float *to = absorbed[i * g.tokens + j];
                nope[j] = q;
                rotate(q + m.nope, turns_ + places[size_t(t)].position * m.rope, m.rope, to + m.rank);
                seen[i * g.tokens + j] = places[size_t(t)].position + 1;
            }
            const int64_t row = head * (m.nope + m.value);
            float *const *to = absorbed.out() + i * g.tokens;
            if (layer.key_value.format == BF16)
                combine(static_cast<const uint16_t *>(layer.key_value.data) + row * m.rank, m.rank, m.nope, m.rank, nope,
                        g.tokens, to, false);
            else
                combine(static_cast<const float *>(layer.key_value.data) + row * m.rank, m.rank, m.nope, m.rank, nope,
                        g.tokens, to, false);
            for (int64_t j = 0; j < g.tokens; j++)
                for (int64_t c = 0; c < width; c++) to[j][c] *= m.softmax_scale;
        }
        attend(absorbed.in(), seen, count, cache(*places[size_t(g.token)].sequence, index), m.rank, mixed.out());
        for (int64_t i = 0; i < g.heads; i++) {
            const int64_t head = g.head + i, row = head * (m.nope + m.value) + m.nope;
            for (int64_t j = 0; j < g.tokens; j++) result[j] = heads[g.token + j] + head * m.value - row;
            multiply(layer.key_value, row, row + m.value, mixed.in() + i * g.tokens, g.tokens, result);
        }
    }

    // --- experts ---

    void feed_forward(const Layer &layer) {
        Table &h = own.h;
        norm_all(x, layer.mlp_norm, m.eps, h);
        const bool always = layer.always.gate.data, routed = layer.router.data;
        const int64_t width = std::max(always ? layer.always.gate.rows : 0, routed ? layer.experts[0].gate.rows : 0);
        const int64_t most = tokens * (always + (routed ? m.chosen : 0));
        own.gate.shape(most, width);
        own.up.shape(most, width);
        own.ready.shape(most, rounded_size(width));
        own.inputs.resize(size_t(2 * most));
        own.outputs.resize(size_t(most));
        own.pieces.clear();
        own.slots.clear();
        own.products.clear();
        bool rounded = false;
        auto read_by = [&](const Matrix &matrix) -> const Table & {  // h is rounded once, for the first that asks
            if (matrix.format != INT4 || rounded) return matrix.format == INT4 ? own.rounded : h;
            rounded = true;
            return as_read_by(matrix, h, tokens, own.rounded, threads_);
        };
        // All of `slots` from `begin` on.
        auto add_piece = [&](const Expert &expert, int64_t begin) {
            const int64_t end = int64_t(own.slots.size());
            const Table &to_gate = read_by(expert.gate), &to_up = read_by(expert.up);
            const float **in = own.inputs.data() + 2 * begin;
            for (int64_t i = begin; i < end; i++) {
                in[i - begin] = to_gate[own.slots[size_t(i)].token];
                in[i - begin + end - begin] = to_up[own.slots[size_t(i)].token];
                own.outputs[size_t(i)] = x[own.slots[size_t(i)].token];
            }
            own.pieces.push_back({&expert, begin, end});
            own.products.push_back({&expert.gate, in, own.gate.out() + begin, end - begin});
            own.products.push_back({&expert.up, in + end - begin, own.up.out() + begin, end - begin});
        };
        if (always) {
            for (int64_t t = 0; t < tokens; t++) own.slots.push_back({&layer.always, t, 1.0f});
            add_piece(layer.always, 0);
        }
        if (routed) {
            own.scores.shape(tokens, m.experts);
            own.products.push_back({&layer.router, read_by(layer.router).in(), own.scores.out(), tokens});
            multiply_all(own.products.data(), int64_t(own.products.size()), threads_);
            own.products.clear();
            choose(layer);
            for (int64_t e = 0; e < m.experts; e++) {
                const int64_t begin = int64_t(own.slots.size());
                for (int64_t i = 0; i < tokens * m.chosen; i++)
                    if (own.chosen[size_t(i)] == e)
                        own.slots.push_back({&layer.experts[e], i / m.chosen, own.mix[size_t(i)]});
                if (int64_t(own.slots.size()) > begin) add_piece(layer.experts[e], begin);
            }
        }
        multiply_all(own.products.data(), int64_t(own.products.size()), threads_);
        parallel(most, most * width < 32768 ? 1 : threads_, [&](int64_t i) { activate(i); });
        add_down();
    }

    // silu(gate . h) * (up . h), times the token's weight for this expert, as the down matrix reads it.
    void activate(int64_t index) {
        const Slot &slot = own.slots[size_t(index)];
        float *gate = own.gate[index];
        const float *up = own.up[index];
        for (int64_t k = 0; k < slot.expert->gate.rows; k += LANES) {  // there is space to the end of a cache line
            Floats g = load(gate + k);
            store(gate + k, g / (1 + exponential(-g)) * load(up + k) * slot.weight);
        }
        if (slot.expert->down.format == INT4) round_to_16_bits(gate, slot.expert->gate.rows, own.ready[index]);
    }

    // x[t] += what its experts say.
    void add_down() {
        const int64_t share = std::max(ROWS, m.hidden / (threads_ * 4) / ROWS * ROWS), step = threads_ > 1 ? share : m.hidden;
        parallel((m.hidden + step - 1) / step, threads_, [&](int64_t task) {
            const int64_t begin = task * step, end = std::min(begin + step, m.hidden);
            for (const Piece &piece : own.pieces) {
                const Matrix &down = piece.expert->down;
                multiply(down, begin, end, (down.format == INT4 ? own.ready : own.gate).in() + piece.begin,
                         piece.end - piece.begin, own.outputs.data() + piece.begin, true);
            }
        });
    }

    // From the scores [T, E]: the experts [T, k] of the highest biased ones and their weights from the unbiased ones
    // (DeepSeek-V3 2.1.2).
    void choose(const Layer &layer) {
        own.chosen.resize(size_t(tokens * m.chosen));
        own.mix.resize(size_t(tokens * m.chosen));
        static thread_local std::vector<float> biased, groups;
        biased.resize(size_t(m.experts));
        for (int64_t t = 0; t < tokens; t++) {
            float *score = own.scores[t];
            for (int64_t e = 0; e < m.experts; e++) {
                score[e] = 1 / (1 + std::exp(-score[e]));
                biased[size_t(e)] = score[e] + layer.bias[e];
            }
            if (m.groups > 1) keep_best_groups(biased, groups);
            int64_t *chosen = &own.chosen[size_t(t * m.chosen)];
            float *mix = &own.mix[size_t(t * m.chosen)], total = 0;
            for (int64_t i = 0; i < m.chosen; i++) {
                chosen[i] = take_highest(biased);
                mix[i] = score[chosen[i]];
                total += mix[i];
            }
            for (int64_t i = 0; i < m.chosen; i++)
                mix[i] = (m.renormalise ? mix[i] / (total + 1e-20f) : mix[i]) * m.routed_scale;
        }
    }

    // The index of the highest value, which becomes TAKEN: never chosen twice, also among -infinity and NaN.
    static constexpr float TAKEN = -INFINITY;
    static int64_t take_highest(std::vector<float> &values) {
        int64_t best = -1, spare = -1;
        for (size_t e = 0; e < values.size(); e++) {
            if (values[e] != values[e]) {  // NaN: it is told by the sampler
                best = int64_t(e);
                break;
            }
            if (values[e] == TAKEN) spare = int64_t(e);
            else if (best < 0 || values[e] > values[size_t(best)]) best = int64_t(e);
        }
        if (best < 0) best = spare;
        values[size_t(best)] = TAKEN;
        return best;
    }

    void keep_best_groups(std::vector<float> &biased, std::vector<float> &groups) const {
        const int64_t size = m.experts / m.groups;
        groups.resize(size_t(m.groups));
        for (int64_t g = 0; g < m.groups; g++) {
            float first = -INFINITY, second = -INFINITY;
            for (int64_t e = g * size; e < (g + 1) * size; e++) {
                const float v = biased[size_t(e)];
                if (v != v) first = v;
                else if (v > first) second = first, first = v;
                else if (v > second) second = v;
            }
            groups[size_t(g)] = size > 1 ? first + second : first;
        }
        std::vector<bool> kept(size_t(m.groups), false);
        for (int64_t i = 0; i < m.kept_groups; i++) kept[size_t(take_highest(groups))] = true;
        for (int64_t e = 0; e < m.experts; e++)
            if (!kept[size_t(e / size)]) biased[size_t(e)] = TAKEN;
    }
};

}  // namespace

extern "C" {

int k2_lanes() { return LANES; }

// Read the new ids of each sequence, fill their caches, and write the hidden states after the last norm, [T, H] in the
// sequences' order. `turns`: [positions, R] cosines and sines in turn.
void k2_run(const Model *model, const Sequence *sequences, int64_t count, const float *turns, int64_t block_rows,
            int32_t threads, float *hidden) {
    Step step(*model, sequences, count, turns, block_rows, threads);
    int64_t tokens = 0;
    for (int64_t s = 0; s < count; s++) tokens += sequences[s].count;
    std::vector<float *> rows;
    for (int64_t t = 0; t < tokens; t++) rows.push_back(hidden + t * model->hidden);
    step.run(rows.data());
}

// y [T, rows] = matrix . x [T, columns]
void k2_multiply(const Matrix *matrix, const float *x, int64_t tokens, int32_t threads, float *y) {
    std::vector<const float *> in;
    std::vector<float *> out;
    for (int64_t t = 0; t < tokens; t++) {
        in.push_back(x + t * matrix->columns);
        out.push_back(y + t * matrix->rows);
    }
    static thread_local Table rounded;
    if (matrix->format == INT4) {
        rounded.shape(tokens, rounded_size(matrix->columns));
        round_all(in.data(), rounded.out(), tokens, matrix->columns, threads);
        in.assign(rounded.in(), rounded.in() + tokens);
    }
    multiply_all({{matrix, in.data(), out.data(), tokens}}, threads);
}

// logits [T, vocabulary] of hidden [T, H].
void k2_logits(const Model *model, const float *hidden, int64_t tokens, int32_t threads, float *logits) {
    k2_multiply(&model->head, hidden, tokens, threads, logits);
}

// Bytes read for one sum of `count` floats: how fast memory gives them.
float k2_read(const float *from, int64_t count, int32_t threads) {
    constexpr int64_t PIECE_OF = 1 << 18;
    const int64_t tasks = (count + PIECE_OF - 1) / PIECE_OF;
    std::vector<float> totals(static_cast<size_t>(tasks));
    parallel(tasks, threads, [&](int64_t task) {
        const int64_t begin = task * PIECE_OF, end = std::min(begin + PIECE_OF, count);
        Floats total[8] = {};
        int64_t i = begin;
        for (; i + 8 * LANES <= end; i += 8 * LANES)
            for (int j = 0; j < 8; j++) total[j] += load(from + i + j * LANES);
        for (; i < end; i++) total[0][0] += from[i];
        for (int j = 1; j < 8; j++) total[0] += total[j];
        totals[size_t(task)] = sum(total[0]);
    });
    float total = 0;
    for (float part : totals) total += part;
    return total;
}
}
