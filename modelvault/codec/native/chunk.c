#include "chunk.h"

#include "arena.h"
#include "tables.h"
#include "tokens.h"

enum { RESIDUAL_TOKENS = 64, LEVEL_TOKENS = 256, TILE = 1024, AHEAD = 4 * TILE, HIGHEST_SCALE = 1023 };

/* What keeps subnormal words, in the first byte of a levels-rans body. */
enum { SUBNORMALS = 8 };

static Blocks blocks_of(size_t n, size_t length, size_t first) {
    Blocks blocks = {.n = n, .length = length, .first = first, .count = 0};
    if (n) blocks.count = 1 + (n - first + length - 1) / length;
    return blocks;
}

/* Blocks follow the rows of the tensor, which often share a scale: a row of a convolution is one output channel. Rows
   of 9 to 27 words are taken several at a time, long ones are cut. ShuffleNet, SGD, fp32, bits a weight: rows 16.99,
   blocks of 64 words 17.15, of 256 words 17.22, one block 17.38. */
static Blocks choose_blocks(size_t n, Place place) {
    size_t length = place.row > 1 ? place.row : 128;
    if (length < 32) length *= (31 + length) / length;
    if (length > 1024) length = 512;
    size_t first = length - place.start % length;
    if (length > n) length = n;
    if (first > length) first = length;
    return blocks_of(n, length, first);
}

/* Where the block before `index` ends. */
static size_t end_of(const Blocks *blocks, size_t index) {
    return index < blocks->count ? block_start(blocks, index) : blocks->n;
}

static const uint8_t *offset_of(const void *words, int word_bytes, size_t index) {
    return (const uint8_t *)words + index * (size_t)word_bytes;
}

int lanes_log_of(size_t coded, size_t word_bytes) {
    const size_t bytes = coded * word_bytes;
    if (bytes >= 32768) return 5;
    if (bytes >= 16384) return 4;
    return coded >= 2048 ? 3 : coded >= 256 ? 2 : 0;
}

static int selector_bits(int predictors) { return predictors > 2 ? 2 : predictors > 1 ? 1 : 0; }

static uint32_t scale_code(uint16_t scale, int *before) {
    if (!scale) return 0;
    uint32_t code = 1 + zigzag(scale - *before);
    *before = scale;
    return code;
}

enum { ORDERS = 8, CHEAP_CODES = 64 };

/* A byte for each order of Golomb codes: what a code below CHEAP_CODES takes. All are below 16, so as many add up. */
static uint64_t golomb_costs[CHEAP_CODES];

void chunk_prepare(void) {
    for (uint32_t code = 0; code < CHEAP_CODES; code++) {
        for (int k = 0; k < ORDERS; k++) golomb_costs[code] |= (uint64_t)golomb_bits(code, k) << 8 * k;
    }
}

/* The order in which the scales of blocks take least, the lowest of several. */
static int best_order(const uint16_t *scales, size_t count) {
    enum { AT_ONCE = 16 };
    uint64_t bits[ORDERS] = {0};
    int before = 0, order = 0;
    for (size_t start = 0; start < count; start += AT_ONCE) {
        const size_t end = count - start < AT_ONCE ? count : start + AT_ONCE;
        uint64_t cheap = 0;
        for (size_t i = start; i < end; i++) {
            const uint32_t code = scale_code(scales[i], &before);
            if (code < CHEAP_CODES) {
                cheap += golomb_costs[code];
            } else {
                for (int k = 0; k < ORDERS; k++) bits[k] += (uint64_t)golomb_bits(code, k);
            }
        }
        for (int k = 0; k < ORDERS; k++) bits[k] += cheap >> 8 * k & 0xFF;
    }
    for (int k = 1; k < ORDERS; k++) {
        if (bits[k] < bits[order]) order = k;
    }
    return order;
}

static void write_blocks(BitWriter *writer, const uint16_t *scales, const uint8_t *selectors, size_t count,
                         int predictors) {
    const int order = best_order(scales, count), width = selector_bits(predictors);
    int before = 0;
    bits_put(writer, (uint32_t)order, 3);
    for (size_t i = 0; i < count && !writer->full; i++) {
        if (width) bits_put(writer, selectors[i], width);
        bits_put_golomb(writer, scale_code(scales[i], &before), order);
    }
}

static const char *read_blocks(BitReader *reader, uint16_t *scales, uint8_t *selectors, size_t count, int predictors) {
    int order = (int)bits_take(reader, 3), before = 0;
    for (size_t i = 0; i < count; i++) {
        if (predictors) selectors[i] = (uint8_t)bits_take(reader, selector_bits(predictors));
        uint32_t code = bits_take_golomb(reader, order);
        if (reader->failed) return "its blocks end too early";
        if (predictors && selectors[i] >= predictors) return "a block has no such predictor";
        if (code > 2 * HIGHEST_SCALE + 1) return "the scale of a block is out of range";
        int scale = code ? before + unzigzag(code - 1) : 0;
        if (code) {
            if (scale < 1 || scale > HIGHEST_SCALE) return "the scale of a block is out of range";
            before = scale;
        }
        scales[i] = (uint16_t)scale;
    }
    return NULL;
}

static void set_divisions(Division *divisions, const Model *model, int stride) {
    for (int i = 0; i < model->tables; i++) {
        const Table *table = &model->table[i];
        divisions_set(divisions + i * stride, table->frequency, table->low, table->count);
    }
}

static void set_slots(const Kernels *kernels, uint32_t *slots, const Model *model) {
    for (int i = 0; i < model->tables; i++) {
        const Table *table = &model->table[i];
        kernels->set_slots(slots + (size_t)i * FREQUENCIES, table->frequency + table->low, table->low, table->count);
    }
}

/* Bits that all words and references leave zero, if dropping them is worth it. */
static int common_shift(const Kernels *kernels, const Task *task, const void *words) {
    const Layout layout = LAYOUTS[task->format];
    if (task->predictors > 1 || (task->predictors && task->predictor->kind != PREVIOUS)) return 0;
    enum { FEW = 64 };
    uint32_t any = 0;
    for (size_t i = 0; i < task->n && i < FEW; i++) any |= word_at(task->format, words, i);
    if (any & 0xFF) return 0; /* as of most tensors a few words tell */
    if (layout.word_bytes == 4) {
        any = kernels->any32(words, task->n);
        if (task->predictors) any |= kernels->any32(task->references[0], task->n);
    } else {
        any = kernels->any16(words, task->n);
        if (task->predictors) any |= kernels->any16(task->references[0], task->n);
    }
    const int shift = any ? __builtin_ctz(any) : 32;
    if (shift < 8) return 0;
    return shift < layout.mantissa ? shift : layout.mantissa;
}

static void residuals_of(const Kernels *kernels, Layout layout, const void *words, const void *predictions, size_t n,
                         int shift, void *residuals, uint8_t *tokens) {
    if (layout.word_bytes == 4) {
        kernels->residual32(words, predictions, n, shift, residuals, tokens);
    } else {
        kernels->residual16(words, predictions, n, shift, residuals, tokens);
    }
}

/* Everything an encoder works on. Arrays of words have n of them; `coded` counts those of blocks that are not blank,
   which are moved together. */
typedef struct {
    Blocks blocks;
    size_t coded;
    void *values; /* residuals, or what stands beside levels */
    uint8_t *tokens, *contexts;
    uint16_t *scales;
    uint8_t *selectors;
    uint32_t *counts; /* of the contexts that are used */
    Contexts used;
    Division *divisions;
    uint16_t *stream;
    uint32_t origin;
} Work;

static size_t blocks_room(size_t n) { return n / 32 + 2; }

static size_t work_bytes(const Task *task) {
    const size_t n = task->n, w = (size_t)LAYOUTS[task->format].word_bytes;
    return rounded(n * w) + 2 * rounded(n) + rounded(2 * blocks_room(n)) + rounded(blocks_room(n)) +
           rounded(CONTEXTS * LEVEL_TOKENS * 4) + rounded(MAX_TABLES * LEVEL_TOKENS * sizeof(Division)) +
           rounded(2 * n + 64);
}

static Work work_on(Arena *arena, const Task *task, Place place) {
    const size_t n = task->n, w = (size_t)LAYOUTS[task->format].word_bytes;
    Work work = {.blocks = choose_blocks(n, place)};
    work.values = take(arena, n * w);
    work.tokens = take(arena, n);
    work.contexts = take(arena, n);
    work.scales = take(arena, 2 * blocks_room(n));
    work.selectors = take(arena, blocks_room(n));
    work.counts = take(arena, CONTEXTS * LEVEL_TOKENS * 4);
    work.divisions = take(arena, MAX_TABLES * LEVEL_TOKENS * sizeof(Division));
    work.stream = take(arena, 2 * n + 64);
    return work;
}

size_t encode_scratch(const Task *task) {
    const size_t n = task->n, w = (size_t)LAYOUTS[task->format].word_bytes;
    return work_bytes(task) + (size_t)(task->predictors + 1) * (rounded(n * w) + rounded(4 * blocks_room(n))) + 64;
}

static void move_together(Work *work, size_t start, size_t count, size_t word_bytes) {
    if (work->coded != start) {
        memmove((uint8_t *)work->values + work->coded * word_bytes, (uint8_t *)work->values + start * word_bytes,
                count * word_bytes);
        memmove(work->tokens + work->coded, work->tokens + start, count);
    }
    work->coded += count;
}

static void lengths_of(const Kernels *kernels, const Task *task, int flags, int shift, const uint8_t *tokens, size_t n,
                       uint8_t *lengths) {
    const int rest = LAYOUTS[task->format].mantissa + 1 - shift;
    if (task->predictors) {
        kernels->residual_lengths(tokens, n, lengths);
    } else {
        kernels->level_lengths(tokens, n, rest, flags & SUBNORMALS ? rest : 0, lengths);
    }
}

/* From tokens, contexts and values to the body. */
static size_t write_body(const Kernels *kernels, const Task *task, Work *work, int flags, int shift, uint8_t *body,
                         size_t capacity) {
    const Layout layout = LAYOUTS[task->format];
    const int stride = task->predictors ? RESIDUAL_TOKENS : LEVEL_TOKENS;
    const int lanes_log = lanes_log_of(work->coded, (size_t)layout.word_bytes), lanes = 1 << lanes_log;
    uint8_t *at = body, *end = body + capacity;
    if (capacity < 2) return 0;
    *at++ = (uint8_t)(lanes_log | flags);
    *at++ = (uint8_t)shift;
    if (!put_uint(&at, end, work->blocks.length) || !put_uint(&at, end, work->blocks.first)) return 0;
    BitWriter writer = {.at = at, .end = end};
    write_blocks(&writer, work->scales, task->predictors ? work->selectors : NULL, work->blocks.count,
                 task->predictors);
    Model model;
    if (work->coded) {
        if (!task->predictors) bits_put(&writer, work->origin, 10);
        if (!model_fit(kernels, &model, work->counts, stride, work->used)) return 0;
        model_write(&model, &writer);
    }
    bits_close(&writer);
    if (writer.full) return 0;
    at = writer.at;
    if (!work->coded) return (size_t)(at - body) < capacity ? (size_t)(at - body) : 0;

    kernels->assign(work->contexts, work->coded, model.bounds, model.tables);
    set_divisions(work->divisions, &model, stride);
    uint32_t states[MAX_LANES];
    uint16_t *stream_end = work->stream + task->n + 16;
    uint16_t *stream = kernels->encode(work->tokens, work->contexts, work->coded, work->divisions, stride, states,
                                       lanes, stream_end);
    const size_t stream_words = (size_t)(stream_end - stream), states_bytes = 4 * (size_t)lanes;
    if ((size_t)(end - at) <= states_bytes) return 0;
    memcpy(at, states, states_bytes);
    at += states_bytes;
    if (!put_uint(&at, end, stream_words) || (size_t)(end - at) <= 2 * stream_words) return 0;
    memcpy(at, stream, 2 * stream_words);
    at += 2 * stream_words;
    uint8_t *lengths = work->contexts; /* which are not needed any more */
    lengths_of(kernels, task, flags, shift, work->tokens, work->coded, lengths);
    const size_t tail_bytes = ((size_t)kernels->sum(lengths, work->coded) + 7) / 8;
    if ((size_t)(end - at) <= tail_bytes) return 0;
    if (layout.word_bytes == 4) {
        kernels->pack32(work->values, lengths, work->coded, at);
    } else {
        kernels->pack16(work->values, lengths, work->coded, at);
    }
    return (size_t)(at - body) + tail_bytes;
}

static void levels_of(const Kernels *kernels, Layout layout, const void *words, size_t n, uint8_t *levels) {
    if (layout.word_bytes == 4) {
        kernels->levels32(words, n, levels);
    } else {
        kernels->levels16(words, n, layout.mantissa, layout.level_mask, levels);
    }
}

/* The references from a word on. */
static void references_at(const Task *task, size_t start, const void *references[MAX_REFERENCES]) {
    const int w = LAYOUTS[task->format].word_bytes;
    for (int i = 0; i < MAX_REFERENCES; i++) {
        references[i] = task->references[i] ? offset_of(task->references[i], w, start) : NULL;
    }
}

/* With words asked for that are AHEAD, ShuffleNet (fp32), in turn with other codecs, is encoded in 0.95 of the time; one
   tile ahead or eight of them in 0.98. */
static void prefetch(const void *bytes, size_t from, size_t to) {
    enum { LINE = 64 };
    for (size_t i = from; i < to; i += LINE) __builtin_prefetch((const uint8_t *)bytes + i);
}

/* Residuals, tokens and levels where there is one predictor. A tile at a time: words come from memory while others are
   computed with, and predictions go nowhere. `tile` has room for those of one. */
static void residuals_by_tiles(const Kernels *kernels, const Task *task, const void *words, int shift, Work *work,
                               void *tile) {
    const Layout layout = LAYOUTS[task->format];
    const size_t w = (size_t)layout.word_bytes;
    size_t asked = 0; /* bytes of words and of references */
    memset(work->selectors, 0, work->blocks.count);
    for (size_t start = 0; start < task->n; start += TILE) {
        const size_t count = task->n - start < TILE ? task->n - start : TILE;
        const void *references[MAX_REFERENCES];
        references_at(task, start, references);
        const size_t until = (start + AHEAD < task->n ? start + AHEAD : task->n) * w;
        prefetch(words, asked, until);
        prefetch(task->references[0], asked, until);
        asked = until;
        const void *expected = references[0];
        if (task->predictor[0].kind != PREVIOUS) {
            kernels->predict[task->format](&task->predictor[0], references, count, tile);
            expected = tile;
        }
        residuals_of(kernels, layout, offset_of(words, layout.word_bytes, start), expected, count, shift,
                     (uint8_t *)work->values + start * w, work->tokens + start);
        levels_of(kernels, layout, expected, count, work->contexts + start);
    }
}

/* Whether a few words from some places, which have one predictor, tell that no body is worth making: their tails, and what
   their tokens hold. A quarter of them tells of most weights that it is. */
static bool seems_long(const Kernels *kernels, const Task *task, const void *words, int shift, size_t limit) {
    enum { LEAST_SAMPLED = 1 << 12, PLACES = 16, AT_EACH = 64, FIRST = 4, SEEMS_LONG = 64, SEEMS_SHORT = 8 };
    static const uint32_t no_counts[RESIDUAL_TOKENS];
    if (task->n < LEAST_SAMPLED || task->format != FORMAT_F32) return false;
    uint32_t expected[AT_EACH], residuals[AT_EACH], counts[RESIDUAL_TOKENS] = {0};
    uint8_t tokens[PLACES * AT_EACH], lengths[PLACES * AT_EACH];
    for (size_t i = 0; i < PLACES; i++) {
        const size_t place = i % FIRST * (PLACES / FIRST) + i / FIRST, start = place * (task->n / PLACES);
        const void *references[MAX_REFERENCES];
        references_at(task, start, references);
        kernels->predict[FORMAT_F32](&task->predictor[0], references, AT_EACH, expected);
        kernels->residual32((const uint32_t *)words + start, expected, AT_EACH, shift, residuals, tokens + i * AT_EACH);
        if (i + 1 != FIRST) continue;
        const uint32_t sum = kernels->sum(tokens, FIRST * AT_EACH) + FIRST * AT_EACH;
        if ((uint64_t)sum * task->n < (uint64_t)(limit - limit / SEEMS_SHORT) * 16 * FIRST * AT_EACH) return false;
    }
    for (size_t i = 0; i < PLACES * AT_EACH; i++) counts[tokens[i]]++;
    kernels->residual_lengths(tokens, PLACES * AT_EACH, lengths);
    const uint64_t bits = kernels->token_bits(counts, no_counts, RESIDUAL_TOKENS, PLACES * AT_EACH) +
                          256 * (uint64_t)kernels->sum(lengths, PLACES * AT_EACH);
    return bits * task->n > (uint64_t)(limit + limit / SEEMS_LONG) * 8 * 256 * PLACES * AT_EACH;
}

/* The same where there are several: each block takes the one whose tokens add up to least. */
static void residuals_of_best(const Kernels *kernels, const Task *task, const void *words, int shift, Work *work,
                              Arena arena) {
    const Layout layout = LAYOUTS[task->format];
    const Blocks *blocks = &work->blocks;
    const size_t n = task->n, w = (size_t)layout.word_bytes;
    const void *predictions[MAX_PREDICTORS] = {0};
    for (int j = 0; j < task->predictors; j++) {
        if (task->predictor[j].kind == PREVIOUS) {
            predictions[j] = task->references[0];
        } else {
            void *out = take(&arena, n * w);
            kernels->predict[task->format](&task->predictor[j], task->references, n, out);
            predictions[j] = out;
        }
    }
    uint32_t *least = take(&arena, 4 * blocks->count);
    uint8_t *mixed = take(&arena, n * w);
    for (int j = 0; j < task->predictors; j++) {
        residuals_of(kernels, layout, words, predictions[j], n, shift, work->values, work->tokens);
        for (size_t i = 0; i < blocks->count; i++) {
            uint32_t sum = kernels->sum(work->tokens + block_start(blocks, i), block_length(blocks, i));
            if (!j || sum < least[i]) {
                least[i] = sum;
                work->selectors[i] = (uint8_t)j;
            }
        }
    }
    for (size_t i = 0; i < blocks->count; i++) {
        size_t start = block_start(blocks, i) * w;
        memcpy(mixed + start, (const uint8_t *)predictions[work->selectors[i]] + start, block_length(blocks, i) * w);
    }
    residuals_of(kernels, layout, words, mixed, n, shift, work->values, work->tokens);
    levels_of(kernels, layout, mixed, n, work->contexts);
}

static size_t encode_residuals(const Kernels *kernels, const Task *task, Place place, const void *words, uint8_t *body,
                               size_t capacity, size_t limit, Arena arena) {
    const Layout layout = LAYOUTS[task->format];
    const size_t n = task->n, w = (size_t)layout.word_bytes;
    Work work = work_on(&arena, task, place);
    const int shift = common_shift(kernels, task, words);

    if (task->predictors == 1) {
        if (seems_long(kernels, task, words, shift, limit)) return 0;
        residuals_by_tiles(kernels, task, words, shift, &work, take(&arena, TILE * w));
    } else {
        residuals_of_best(kernels, task, words, shift, &work, arena);
    }
    /* A tail has half as many bits as its token says, less one and a half; and two bits for the token. */
    if ((kernels->sum(work.tokens, n) + n) / 16 >= limit) return 0;

    work.coded = kernels->scale_blocks(&work.blocks, work.contexts, work.tokens, work.values, layout.word_bytes, work.scales);
    work.used = kernels->count_tokens(work.contexts, work.tokens, work.coded, 6, work.counts);
    return write_body(kernels, task, &work, 0, shift, body, capacity);
}

static size_t encode_levels(const Kernels *kernels, const Task *task, Place place, const void *words, uint8_t *body,
                            size_t capacity, Arena arena) {
    const Layout layout = LAYOUTS[task->format];
    const size_t n = task->n, w = (size_t)layout.word_bytes;
    Work work = work_on(&arena, task, place);
    const Blocks *blocks = &work.blocks;
    const int shift = common_shift(kernels, task, words);
    uint32_t low = layout.word_bytes == 4 ? kernels->split32(words, n, shift, work.tokens, work.values)
                                          : kernels->split16(words, n, layout.mantissa, layout.level_mask, shift,
                                                             work.tokens, work.values);
    int highest = 0;
    for (size_t i = 0; i < blocks->count; i++) {
        size_t start = block_start(blocks, i), count = block_length(blocks, i);
        const void *from = offset_of(words, layout.word_bytes, start);
        uint32_t sum = kernels->sum(work.tokens + start, count);
        work.scales[i] = 0;
        if (!sum && !(layout.word_bytes == 4 ? kernels->any32(from, count) : kernels->any16(from, count))) continue;
        uint32_t present = kernels->count_nonzero(work.tokens + start, count);
        work.scales[i] = (uint16_t)(1 + (present ? 2 * sum / present : 0));
        if (work.scales[i] > highest) highest = work.scales[i];
    }
    work.origin = (uint32_t)(highest > CONTEXTS ? highest - CONTEXTS : 0);
    for (size_t i = 0; i < blocks->count; i++) {
        if (!work.scales[i]) continue;
        size_t start = block_start(blocks, i), count = block_length(blocks, i);
        int context = work.scales[i] - 1 - (int)work.origin;
        context = context < 0 ? 0 : context;
        memset(work.contexts + work.coded, context, count);
        move_together(&work, start, count, w);
    }
    work.used = kernels->count_tokens(work.contexts, work.tokens, work.coded, 8, work.counts);
    return write_body(kernels, task, &work, low ? SUBNORMALS : 0, shift, body, capacity);
}

size_t encode_body(const Kernels *kernels, const Task *task, Place place, const void *words, uint8_t *body,
                   size_t capacity, size_t limit, void *scratch) {
    Arena arena = {scratch};
    if (!task->n) return 0;
    if (task->predictors) return encode_residuals(kernels, task, place, words, body, capacity, limit, arena);
    return encode_levels(kernels, task, place, words, body, capacity, arena);
}

size_t decode_scratch(const Task *task) {
    const size_t n = task->n;
    return 2 * rounded(n) + rounded(2 * n) + rounded(n) + rounded(MAX_TABLES * FREQUENCIES * 4 + SLOTS_ROOM) +
           rounded(stream_room(n)) + rounded(4 * TILE) + 64;
}

/* Take the raw bits of up to TILE words out of a stream. Up to 64 bytes are read at a time: where that might pass the end,
   out of a copy with room behind it. */
static size_t unpack(const Kernels *kernels, size_t word_bytes, void *values, const uint8_t *lengths, size_t n,
                     const uint8_t *stream, const uint8_t *end, size_t bit) {
    uint8_t copy[4 * TILE + UNPACKED_AHEAD];
    const size_t left = (size_t)(end - stream) - bit / 8, before = bit / 8 * 8, most = 4 * n + UNPACKED_AHEAD;
    if (left < most) {
        memcpy(copy, stream + bit / 8, left);
        memset(copy + left, 0, most - left);
        stream = copy;
        bit -= before;
    }
    bit = word_bytes == 4 ? kernels->unpack32(values, lengths, n, stream, bit)
                          : kernels->unpack16(values, lengths, n, stream, bit);
    return stream == copy ? before + bit : bit;
}

/* So many words from `start` on, or some more, which loops take all by vectors, if there are as many: what is computed of
   those is computed anew. A few words stay as few: blocks may be as short as one. */
static size_t in_vectors(size_t start, size_t count, size_t n) {
    enum { VECTOR = 64, FEW = VECTOR / 4 };
    const size_t more = (count + VECTOR - 1) / VECTOR * VECTOR;
    return count >= FEW && more <= n - start ? more : count;
}

const char *decode_body(const Kernels *kernels, const Task *task, const uint8_t *body, size_t length, void *words,
                        void *scratch) {
    const Layout layout = LAYOUTS[task->format];
    const size_t n = task->n, w = (size_t)layout.word_bytes;
    const int predictors = task->predictors;
    const int level_tokens = (int)layout.level_mask + 1, residual_tokens = 4 + 2 * (8 * layout.word_bytes - 2);
    const uint8_t *at = body, *end = body + length;
    Arena arena = {scratch};

    if (length < 2) return "it ends too early";
    const int lanes_log = *at & 7, subnormals = *at & SUBNORMALS;
    if (lanes_log > 5 || *at & ~(7 | (predictors ? 0 : SUBNORMALS))) return "its first byte is not one of the format";
    at++;
    const int shift = *at++;
    if (shift > layout.mantissa) return "it drops more bits than a mantissa has";
    size_t block = 0, first = 0;
    if (!take_uint(&at, end, &block) || !take_uint(&at, end, &first)) return "it ends too early";
    if (block < 1 || block > (n ? n : 1) || first < 1 || first > block) return "its blocks do not fit the chunk";
    const Blocks blocks = blocks_of(n, block, first);
    if (blocks.count > 8 * (size_t)(end - at)) return "it has more blocks than bits";

    uint8_t *tokens = take(&arena, n), *tables = take(&arena, n);
    uint16_t *scales = take(&arena, 2 * n);
    uint8_t *selectors = take(&arena, n);
    uint32_t *slots = take(&arena, MAX_TABLES * FREQUENCIES * 4 + SLOTS_ROOM);
    uint8_t *stream = take(&arena, stream_room(n));
    void *values = take(&arena, 4 * TILE);

    size_t coded = 0;
    uint32_t origin = 0;
    Model model;
    if (n) {
        BitReader reader = {.at = at, .end = end};
        const char *wrong = read_blocks(&reader, scales, selectors, blocks.count, predictors);
        if (wrong) return wrong;
        for (size_t i = 0; i < blocks.count; i++) coded += scales[i] ? block_length(&blocks, i) : 0;
        if (coded) {
            if (!predictors) origin = bits_take(&reader, 10);
            if (!model_read(&model, &reader, predictors ? residual_tokens : level_tokens)) {
                return "its tables are not valid";
            }
        }
        if (!bits_end(&reader, &at)) return "its head is not filled up with zeros";
    }

    /* Predictions: of neighbours that have the same predictor together, because many blocks are short. */
    for (size_t i = 0, next; i < blocks.count; i = next) {
        for (next = i + 1; next < blocks.count; next++) {
            if (predictors ? selectors[next] != selectors[i] : !scales[next] != !scales[i]) break;
        }
        const size_t start = block_start(&blocks, i), count = end_of(&blocks, next) - start;
        uint8_t *out = (uint8_t *)words + start * w;
        if (predictors) {
            const void *references[MAX_REFERENCES];
            references_at(task, start, references);
            kernels->predict[task->format](&task->predictor[selectors[i]], references, in_vectors(start, count, n), out);
        } else if (!scales[i]) {
            memset(out, 0, count * w);
        }
    }

    /* Which table each coded word has. */
    size_t done = 0;
    for (size_t i = 0; i < blocks.count; i++) {
        if (!scales[i]) continue;
        const size_t start = block_start(&blocks, i), count = block_length(&blocks, i);
        const uint8_t *out = (const uint8_t *)words + start * w;
        if (!predictors) {
            int context = scales[i] - 1 - (int)origin;
            context = context < 0 ? 0 : context > CONTEXTS - 1 ? CONTEXTS - 1 : context;
            memset(tables + done, context, count);
        } else if (layout.word_bytes == 4) {
            kernels->contexts32((const uint32_t *)out, in_vectors(start, count, n), scales[i] - 1, tables + done);
        } else {
            kernels->contexts16((const uint16_t *)out, in_vectors(start, count, n), layout.mantissa, layout.level_mask,
                                scales[i] - 1, tables + done);
        }
        done += count;
    }
    if (!coded) return at == end ? NULL : "something follows its last field";
    kernels->assign(tables, coded, model.bounds, model.tables);
    set_slots(kernels, slots, &model);

    const char *wrong = read_tokens(kernels, tokens, tables, coded, slots, 1 << lanes_log, n, &at, end, stream);
    if (wrong) return wrong;

    size_t bit = 0;
    done = 0;
    for (size_t i = 0, next; i < blocks.count; i = next) {
        next = i + 1;
        if (!scales[i]) continue;
        while (next < blocks.count && scales[next]) next++;
        const size_t first_word = block_start(&blocks, i), run = end_of(&blocks, next) - first_word;
        for (size_t tile = 0; tile < run; tile += TILE) {
            size_t count = run - tile < TILE ? run - tile : TILE;
            void *out = (uint8_t *)words + (first_word + tile) * w;
            const uint8_t *some = tokens + done;
            uint8_t lengths[TILE];
            lengths_of(kernels, task, subnormals, shift, some, count, lengths);
            bit = unpack(kernels, w, values, lengths, count, at, end, bit);
            if (bit > 8 * (size_t)(end - at)) return "it ends too early";
            done += count;
            if (predictors && w == 4) {
                kernels->restore32(out, some, values, count, shift);
            } else if (predictors) {
                kernels->restore16(out, some, values, count, shift);
            } else if (w == 4) {
                kernels->join32(out, some, values, count, shift);
            } else {
                kernels->join16(out, some, values, count, layout.mantissa, shift);
            }
        }
    }
    if ((bit + 7) / 8 != (size_t)(end - at)) return "something follows its last field";
    if (bit % 8 && end[-1] >> bit % 8) return "its tails are not filled up with zeros";
    return NULL;
}

void block_costs(const Kernels *kernels, const Task *task, const void *words, size_t length, uint32_t *sums,
                 void *scratch) {
    const Layout layout = LAYOUTS[task->format];
    const size_t n = task->n, w = (size_t)layout.word_bytes, count = (n + length - 1) / length;
    Arena arena = {scratch};
    void *predictions = take(&arena, n * w), *residuals = take(&arena, n * w);
    uint8_t *tokens = take(&arena, n);
    for (int j = 0; j < task->predictors; j++) {
        kernels->predict[task->format](&task->predictor[j], task->references, n, predictions);
        residuals_of(kernels, layout, words, predictions, n, 0, residuals, tokens);
        for (size_t i = 0; i < count; i++) {
            size_t start = i * length;
            *sums++ = kernels->sum(tokens + start, n - start < length ? n - start : length);
        }
    }
}
