#include "strides.h"

#include <math.h>

#include "arena.h"
#include "glance.h"
#include "tables.h"
#include "tokens.h"

enum { MANTISSA = 23, INFINITE = 0x7F800000, LOW = 3 << MANTISSA, MOST_LOOKED_AT = 64, LEAST_LOOKED_AT = 32 };
enum { EVERY = 4, NEAREST = 16, CANDIDATES = 8, PARTS = 3, LEAST_NEAR = 8, LEAST_ULPS = 16, FIRST_BELOW = 8, LEAST_FITTED = 16 };
enum { LEAST_WORDS = 2048, FEW_STRIDES = 8, MOST_STRIDES = 127, LONGEST_TABLE = 1024, WIDEST = 8, PACKED = 16, EIGHT = 8 };

static const float NEAR = 24.5f, ON = 0.125f;
static const double FARTHEST = 1.0 / 256, BETWEEN = 0.25, SOME = 0.25;

#define MAGNITUDE ((uint32_t)0x7FFFFFFF)

static double least_stride(uint32_t top) { return ldexp(LEAST_ULPS, (int)(top >> MANTISSA) - 150); }

/* To the nearest whole number, ties to even, up to 2^22. */
static inline float nearest32(float value) {
    const float shift = 0x1.8p23f;
    return value + shift - shift;
}

/* The same up to 2^51; what a larger one becomes is told by this sum and difference. */
static inline double nearest64(double value) {
    const double shift = 0x1.8p52;
    return value + shift - shift;
}

/* The largest of the words without their signs, of those that are finite; of every one or of some. */
static uint32_t largest(const uint32_t *words, size_t n, size_t every) {
    int32_t top = 0;
    for (size_t i = 0; i < n; i += every) {
        int32_t magnitude = (int32_t)(words[i] & MAGNITUDE);
        magnitude &= -(magnitude < INFINITE);
        top = magnitude > top ? magnitude : top;
    }
    return (uint32_t)top;
}

/* Among those that are there already, in order, if it is one of the least. */
static size_t insert(float *nearest, size_t count, float distance) {
    size_t at = count;
    if (at == NEAREST) {
        if (!(distance < nearest[at - 1])) return count;
        at--;
    }
    for (; at && distance < nearest[at - 1]; at--) nearest[at] = nearest[at - 1];
    nearest[at] = distance;
    return count < NEAREST ? count + 1 : count;
}

/* Of what many of some distances are nearly multiples, 0 if of nothing; roughly. */
static double find_candidate(const double *apart, size_t n, double of_units) {
    float distances[MOST_LOOKED_AT], nearest[NEAREST], farthest = 0, best = 0;
    for (size_t i = 0; i < n; i++) {
        distances[i] = (float)apart[i];
        farthest = distances[i] > farthest ? distances[i] : farthest;
    }
    const double of_all = farthest * FARTHEST;
    const float least = (float)(of_all > of_units ? of_all : of_units);
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (distances[i] >= least) count = insert(nearest, count, distances[i]);
    }
    uint32_t most = 0;
    for (size_t at = 0; at < count && at < CANDIDATES; at++) {
        for (int part = 1; part <= PARTS; part++) {
            const float stride = nearest[at] / (float)part, inverse = 1 / stride;
            uint32_t near = 0, on = 0;
            for (size_t i = 0; i < count; i++) {
                const float strides = nearest[i] * inverse;
                const uint32_t is_near = strides <= NEAR;
                near += is_near;
                on += is_near & (fabsf(strides - nearest32(strides)) <= ON);
            }
            if (stride >= least && near >= LEAST_NEAR && 8 * on >= 7 * near && on > most) {
                best = stride;
                most = on;
            }
        }
    }
    return best;
}

static bool is_finite(uint32_t word) { return (word & MAGNITUDE) < INFINITE; }

/* The stride by which the small ones of a few words seem to have moved, 0 if there is none. */
static double stride_among(const Kernels *kernels, const Few *few) {
    const uint32_t top = largest(few->reference, few->count, EVERY);
    float x[MOST_LOOKED_AT];
    double moved[MOST_LOOKED_AT], apart[MOST_LOOKED_AT], q[MOST_LOOKED_AT];
    size_t n = 0;
    for (size_t i = 0; i < few->count && n < MOST_LOOKED_AT; i++) {
        const uint32_t word = few->words[i], before = few->reference[i];
        if ((before & MAGNITUDE) + LOW > top || !is_finite(word) || !is_finite(before)) continue;
        x[n] = float_of_bits(before);
        moved[n] = (double)float_of_bits(word) - (double)x[n];
        n++;
    }
    if (n < LEAST_LOOKED_AT) return 0;
    double in_order[MOST_LOOKED_AT];
    for (size_t i = n; i < MOST_LOOKED_AT; i++) x[i] = INFINITY;
    for (size_t i = 0; i < n; i++) { /* each is where so many others are smaller, or were there before */
        int32_t before = 0;
        for (size_t j = 0; j < MOST_LOOKED_AT; j++) before += x[j] < x[i];
        for (size_t j = 0; j < i; j++) before += x[j] == x[i];
        in_order[before] = moved[i];
    }
    n--;
    for (size_t i = 0; i < n; i++) apart[i] = fabs(in_order[i + 1] - in_order[i]);
    const double s = find_candidate(apart, n, least_stride(top)), inverse = 1 / s;
    if (!(s > 0)) return 0;
    for (size_t i = 0; i < n; i++) {
        const double some = nearest64(apart[i] * inverse);
        q[i] = some <= FEW_STRIDES ? some : 0;
    }
    const double squares = kernels->dot(q, q, n);
    return squares > 0 ? kernels->dot(q, apart, n) / squares : 0;
}

/* New words are `a` times the old ones and whole strides of `s`, nearly; and half a stride besides if `odd` is 1. */
typedef struct {
    double a, s;
    uint8_t odd;
} Strides;

/* How far words moved and what they were, with and without signs; all 0 of those that are or were not finite. */
typedef struct {
    size_t count;
    uint32_t top, magnitudes[FEW];
    double x[FEW], d[FEW];
} Moved;

static void take_moved(const Few *few, Moved *moved) {
    moved->count = few->count;
    for (size_t i = 0; i < few->count; i++) {
        const bool usable = is_finite(few->reference[i]) && is_finite(few->words[i]);
        const double x = float_of_bits(few->reference[i]), d = (double)float_of_bits(few->words[i]) - x;
        moved->magnitudes[i] = usable ? few->reference[i] & MAGNITUDE : 0;
        moved->x[i] = usable ? x : 0;
        moved->d[i] = usable ? d : 0;
    }
    moved->top = largest(moved->magnitudes, moved->count, 1);
}

/* Words that are so many powers of two smaller than the largest. */
typedef struct {
    size_t count;
    double x[FEW], d[FEW];
} Small;

static void take_small(const Moved *moved, int below, Small *small) {
    const int32_t most = (int32_t)moved->top - (below << MANTISSA);
    size_t count = 0;
    for (size_t i = 0; i < moved->count; i++) {
        small->x[count] = moved->x[i];
        small->d[count] = moved->d[i];
        count += (int32_t)moved->magnitudes[i] <= most;
    }
    small->count = count;
}

/* Whether most of them stand between whole strides. */
static bool stand_between(const Small *small, double s) {
    const double inverse = 1 / s;
    size_t between = 0;
    for (size_t i = 0; i < small->count; i++) {
        const double strides = small->d[i] * inverse;
        between += fabs(strides - nearest64(strides)) > BETWEEN;
    }
    return 2 * between > small->count;
}

/* Decay and stride, by least squares, given what they are roughly. */
static bool refine(const Kernels *kernels, const Small *small, double half, double *decay, double *s) {
    double x[FEW], d[FEW], q[FEW];
    const double inverse = 1 / *s, before = *decay;
    const size_t n = small->count;
    for (size_t i = 0; i < n; i++) {
        const double some = nearest64((small->d[i] - before * small->x[i]) * inverse - half) + half;
        const double is_near = fabs(some) <= MOST_STRIDES;
        x[i] = small->x[i] * is_near;
        d[i] = small->d[i] * is_near;
        q[i] = is_near > 0 ? some : 0;
    }
    const double xx = kernels->dot(x, x, n), xq = kernels->dot(x, q, n), qq = kernels->dot(q, q, n);
    const double xd = kernels->dot(x, d, n), qd = kernels->dot(q, d, n), determinant = xx * qq - xq * xq;
    if (!(determinant > 0)) return false;
    *decay = (xd * qq - qd * xq) / determinant;
    *s = (xx * qd - xq * xd) / determinant;
    return true;
}

static bool fit_strides(const Kernels *kernels, const Few *few, Strides *strides) {
    double s = stride_among(kernels, few), decay = 0, half = 0;
    if (!(s > 0)) return false;
    Moved moved;
    Small small;
    take_moved(few, &moved);
    bool has_begun = false;
    for (int below = FIRST_BELOW; below >= 0; below -= 2) {
        take_small(&moved, below, &small);
        if (small.count < LEAST_FITTED) continue;
        if (!has_begun && stand_between(&small, s)) half = 0.5;
        has_begun = true;
        if (!refine(kernels, &small, half, &decay, &s) || !(s > 0)) return false;
    }
    if (!(s >= least_stride(moved.top))) return false;
    size_t on = 0, some = 0;
    const double inverse = 1 / s;
    for (size_t i = 0; i < moved.count; i++) {
        const double strides = (moved.d[i] - decay * moved.x[i]) * inverse, whole = strides - half;
        on += fabs(whole - nearest64(whole)) <= ON;
        some += fabs(strides) > SOME;
    }
    if (8 * on < 7 * moved.count || 4 * some < moved.count) return false;
    *strides = (Strides){1 + decay, s, half > 0};
    return true;
}

static void count_bytes(const uint8_t *bytes, size_t n, uint32_t counts[MAX_ALPHABET]) {
    enum { AT_ONCE = 4 }; /* counts that do not wait for one another */
    uint32_t times[AT_ONCE][MAX_ALPHABET] = {{0}};
    size_t i = 0;
    for (; i + AT_ONCE <= n; i += AT_ONCE) {
        for (int j = 0; j < AT_ONCE; j++) times[j][bytes[i + (size_t)j]]++;
    }
    for (; i < n; i++) times[0][bytes[i]]++;
    for (int byte = 0; byte < MAX_ALPHABET; byte++) {
        counts[byte] = times[0][byte] + times[1][byte] + times[2][byte] + times[3][byte];
    }
}

/* How many bits a few numbers take if each takes as many, 0 if they are too uneven for that. */
static int even_width(const uint8_t *tokens, size_t n) {
    uint32_t times[MAX_ALPHABET] = {0};
    uint64_t same = 0;
    int width = 1, most = 0;
    for (size_t i = 0; i < n; i++) times[tokens[i]]++;
    for (int token = 0; token < MAX_ALPHABET; token++) {
        same += (uint64_t)times[token] * (uint64_t)(times[token] ? times[token] - 1 : 0);
        most = times[token] ? token : most;
    }
    while (most >> width) width++;
    return 4 * same << width <= 5 * (uint64_t)n * (n - 1) ? width : 0;
}

static size_t packed_bytes(size_t n, int width) { return (n * (size_t)width + 7) / 8; }

static const char *unpack_numbers(const Kernels *kernels, const uint8_t *at, const uint8_t *end, size_t n, int width,
                                  uint8_t *tokens) {
    const size_t bits = n * (size_t)width % 8;
    if ((size_t)(end - at) != packed_bytes(n, width)) return "it has another number of numbers";
    if (bits && end[-1] >> bits) return "bits after the last number are not zero";
    kernels->widen(at, n, width, tokens);
    return NULL;
}

/* By how many strides words moved, as tokens: a head, a table for all of them, and what the entropy coder makes of them.
   Returns the length, 0 for the rare counts that no table fits. */
static size_t write_numbers(const Kernels *kernels, const uint8_t *tokens, size_t n, uint8_t *numbers, Arena arena) {
    uint8_t *contexts = take(&arena, n);
    uint16_t *stream_end = (uint16_t *)take(&arena, 2 * n + 64) + n + 16;
    memset(contexts, 0, n);
    uint32_t counts[MAX_ALPHABET];
    count_bytes(tokens, n, counts);
    Model model;
    if (!model_fit_one(&model, counts)) return 0;
    const int lanes_log = lanes_log_of(n, 4), lanes = 1 << lanes_log;
    *numbers = (uint8_t)lanes_log;
    BitWriter writer = {.at = numbers + 1, .end = numbers + LONGEST_TABLE};
    model_write(&model, &writer);
    bits_close(&writer);
    uint8_t *at = writer.at;
    Division divisions[MAX_ALPHABET];
    divisions_set(divisions, model.table->frequency, model.table->low, model.table->count);
    uint32_t states[MAX_LANES];
    uint16_t *stream = kernels->encode(tokens, contexts, n, divisions, MAX_ALPHABET, states, lanes, stream_end);
    const size_t words = (size_t)(stream_end - stream);
    memcpy(at, states, 4 * (size_t)lanes);
    at += 4 * lanes;
    put_uint(&at, at + 5, words);
    memcpy(at, stream, 2 * words);
    return (size_t)(at - numbers) + 2 * words;
}

static const char *read_numbers(const Kernels *kernels, const uint8_t *at, const uint8_t *end, size_t n, uint8_t *tokens,
                                Arena arena) {
    uint8_t *tables = take(&arena, n), *stream = take(&arena, stream_room(n));
    uint32_t slots[FREQUENCIES + SLOTS_ROOM / 4];
    if (at == end) return "it ends too early";
    const int lanes_log = *at++, width = lanes_log - PACKED;
    if (width > 0 && width <= WIDEST) return unpack_numbers(kernels, at, end, n, width, tokens);
    if (lanes_log > 5) return "its numbers have more lanes than the format knows";
    Model model;
    BitReader reader = {.at = at, .end = end};
    if (!model_read(&model, &reader, MAX_ALPHABET) || model.tables != 1) return "the table of its numbers is not valid";
    if (!bits_end(&reader, &at)) return "the table of its numbers is not filled up with zeros";
    kernels->set_slots(slots, model.table->frequency + model.table->low, model.table->low, model.table->count);
    memset(tables, 0, n);
    const char *wrong = read_tokens(kernels, tokens, tables, n, slots, 1 << lanes_log, n, &at, end, stream);
    return wrong ? wrong : at == end ? NULL : "something follows its numbers";
}

/* How words are coded of which others are expected. */
static Task task_of(const void *const *expected, size_t n) {
    static const Predictor previous = {.kind = PREVIOUS};
    return (Task){.format = FORMAT_F32, .n = n, .predictor = &previous, .predictors = 1, .references = expected};
}

static size_t numbers_room(size_t n) { return LONGEST_TABLE + 4 * MAX_LANES + 5 + 2 * n; }

size_t encode_strides_scratch(size_t n) {
    const Task task = {.format = FORMAT_F32, .n = n, .predictors = 1};
    const size_t numbers = rounded(n) + rounded(2 * n + 64), rest = encode_scratch(&task);
    return rounded(4 * n) + rounded(n) + rounded(numbers_room(n)) + (numbers > rest ? numbers : rest);
}

size_t decode_strides_scratch(size_t n) {
    const Task task = {.format = FORMAT_F32, .n = n, .predictors = 1};
    const size_t numbers = rounded(n) + rounded(stream_room(n)), rest = decode_scratch(&task);
    return rounded(4 * n) + rounded(n + EIGHT) + (numbers > rest ? numbers : rest);
}

enum { STRIDES_HEAD = 17 };

size_t encode_strides(const Kernels *kernels, const void *words, const void *reference, size_t n, Place place,
                      uint8_t *body, void *scratch) {
    if (n < LEAST_WORDS) return 0;
    Few few;
    few.count = FEW;
    take_few(FORMAT_F32, words, n, few.words);
    take_few(FORMAT_F32, reference, n, few.reference);
    Strides strides;
    if (!fit_strides(kernels, &few, &strides)) return 0;
    uint8_t some[FEW];
    kernels->count_strides(few.words, few.reference, FEW, strides.a, strides.s, strides.odd, WIDEST, some);
    const int width = even_width(some, FEW);
    Arena arena = {scratch};
    uint32_t *expected = take(&arena, 4 * n);
    uint8_t *tokens = take(&arena, n), *numbers = take(&arena, numbers_room(n));
    kernels->count_strides(words, reference, n, strides.a, strides.s, strides.odd, width ? width : WIDEST, tokens);
    size_t length;
    if (width) {
        *numbers = (uint8_t)(PACKED + width);
        kernels->narrow(tokens, n, width, numbers + 1);
        length = 1 + packed_bytes(n, width);
    } else {
        length = write_numbers(kernels, tokens, n, numbers, arena);
    }
    const size_t most = 5 * n / 2;
    if (!length || most < STRIDES_HEAD + 5 + length) return 0;
    memcpy(body, &strides.a, 8);
    memcpy(body + 8, &strides.s, 8);
    body[16] = strides.odd;
    uint8_t *at = body + STRIDES_HEAD;
    put_uint(&at, at + 5, length);
    memcpy(at, numbers, length);
    at += length;
    kernels->expect_strides(reference, tokens, n, strides.a, strides.s, strides.odd, expected);
    const void *references[MAX_REFERENCES] = {expected};
    const Task task = task_of(references, n);
    const size_t rest = encode_body(kernels, &task, place, words, at, most - (size_t)(at - body), 4 * n, arena.at);
    return rest ? (size_t)(at - body) + rest : 0;
}

const char *decode_strides(const Kernels *kernels, const void *reference, size_t n, const uint8_t *body, size_t length,
                           void *words, void *scratch) {
    const uint8_t *at = body, *end = body + length;
    Strides strides;
    size_t numbers;
    if (!n) return "it has no words";
    if (length < STRIDES_HEAD) return "it ends too early";
    memcpy(&strides.a, at, 8);
    memcpy(&strides.s, at + 8, 8);
    strides.odd = at[16];
    at += STRIDES_HEAD;
    if (!isfinite(strides.a) || !isfinite(strides.s) || strides.odd > 1) return "its strides are no numbers";
    if (!take_uint(&at, end, &numbers) || numbers > (size_t)(end - at)) return "it ends too early";
    Arena arena = {scratch};
    uint32_t *expected = take(&arena, 4 * n);
    uint8_t *tokens = take(&arena, n + EIGHT);
    const char *wrong = read_numbers(kernels, at, at + numbers, n, tokens, arena);
    if (wrong) return wrong;
    at += numbers;
    kernels->expect_strides(reference, tokens, n, strides.a, strides.s, strides.odd, expected);
    const void *references[MAX_REFERENCES] = {expected};
    const Task task = task_of(references, n);
    return decode_body(kernels, &task, at, (size_t)(end - at), words, arena.at);
}
