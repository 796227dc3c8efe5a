/* The loops that a compiler turns into vectors by itself. Included once for each level of instructions. */

#ifndef MODELVAULT_KERNELS_LOOPS_H
#define MODELVAULT_KERNELS_LOOPS_H

#include <math.h>

#include "kernels.h"

#define STEP 64 /* words at a time where several passes share a small buffer */

static inline uint32_t place32(uint32_t word) { return word ^ ((uint32_t)((int32_t)word >> 31) | 0x80000000u); }

static inline uint16_t place16(uint16_t word) {
    return (uint16_t)(word ^ ((uint16_t)((int16_t)word >> 15) | 0x8000u));
}

static inline uint32_t unplace32(uint32_t place) { return place ^ (~(uint32_t)((int32_t)place >> 31) | 0x80000000u); }

static inline uint16_t unplace16(uint16_t place) {
    return (uint16_t)(place ^ ((uint16_t)~((int16_t)place >> 15) | 0x8000u));
}

/* A token of a residual, from the bits of its conversion to float. A half is a signed integer, which more machines convert
   than others; and eight bits behind its highest it has a zero, at which what is rounded up ends. */
static inline uint8_t token_of(uint32_t residual) {
    const uint32_t half = residual >> 1, bits = bits_of_float((float)(int32_t)(half & ~(half >> 8)));
    return (uint8_t)(residual < 4 ? residual : (bits >> 22) - 252);
}

/* Shifted words have places whose lowest bits are all zeros or all ones, by sign: they are dropped before they differ.

   Here and below, where a shift is nearly always the same it is a constant of the loop: by what varies compilers shift no
   words of 16 bits, but make them longer and short again. */

__attribute__((always_inline)) static inline void residual32_by(const int shift, const uint32_t *words,
                                                                const uint32_t *predictions, size_t n,
                                                                uint32_t *residuals, uint8_t *tokens) {
    const uint32_t kept = ~0u << shift;
    for (size_t i = 0; i < n; i++) {
        int32_t difference = (int32_t)((place32(words[i]) & kept) - (place32(predictions[i]) & kept));
        difference >>= shift;
        uint32_t residual = ((uint32_t)difference << 1) ^ (uint32_t)(difference >> 31);
        residuals[i] = residual;
        tokens[i] = token_of(residual);
    }
}

static void residual32(const uint32_t *words, const uint32_t *predictions, size_t n, int shift, uint32_t *residuals,
                       uint8_t *tokens) {
    if (shift) {
        residual32_by(shift, words, predictions, n, residuals, tokens);
    } else {
        residual32_by(0, words, predictions, n, residuals, tokens);
    }
}

__attribute__((always_inline)) static inline void residual16_by(const int shift, const uint16_t *words,
                                                                const uint16_t *predictions, size_t n,
                                                                uint16_t *residuals, uint8_t *tokens) {
    const uint16_t kept = (uint16_t)(~0u << shift);
    for (size_t i = 0; i < n; i++) {
        int16_t difference = (int16_t)((place16(words[i]) & kept) - (place16(predictions[i]) & kept));
        difference = (int16_t)(difference >> shift);
        const uint16_t residual = (uint16_t)((uint16_t)(difference * 2) ^ (uint16_t)(difference >> 15));
        uint32_t bits = bits_of_float((float)(int32_t)residual);
        residuals[i] = residual;
        tokens[i] = (uint8_t)(residual < 4 ? residual : (bits >> 22) - 254);
    }
}

static void residual16(const uint16_t *words, const uint16_t *predictions, size_t n, int shift, uint16_t *residuals,
                       uint8_t *tokens) {
    if (shift) {
        residual16_by(shift, words, predictions, n, residuals, tokens);
    } else {
        residual16_by(0, words, predictions, n, residuals, tokens);
    }
}

/* Without a branch: tokens below 4 are residuals themselves. */
static inline uint32_t residual_of(uint32_t token, uint32_t rest) {
    uint32_t length = token < 4 ? 0 : (token >> 1) - 1;
    return token < 4 ? token : ((2 | (token & 1)) << length) + rest;
}

static void restore32(uint32_t *predictions, const uint8_t *tokens, const uint32_t *rests, size_t n, int shift) {
    const uint32_t kept = ~0u << shift;
    for (size_t i = 0; i < n; i++) {
        uint32_t residual = residual_of(tokens[i], rests[i]);
        uint32_t difference = (residual >> 1) ^ (0u - (residual & 1));
        predictions[i] = unplace32(place32(predictions[i]) + (difference << shift)) & kept;
    }
}

static inline uint16_t restored16(uint16_t prediction, uint8_t token, uint16_t rest, int shift) {
    const uint32_t residual = residual_of(token, rest), difference = (residual >> 1) ^ (0u - (residual & 1));
    return (uint16_t)(unplace16((uint16_t)(place16(prediction) + (difference << shift))) & (~0u << shift));
}

#ifndef SHORT_VECTORS
static void restore16(uint16_t *predictions, const uint8_t *tokens, const uint16_t *rests, size_t n, int shift) {
    for (size_t i = 0; i < n; i++) predictions[i] = restored16(predictions[i], tokens[i], rests[i], shift);
}
#endif

static void contexts32(const uint32_t *predictions, size_t n, int at, uint8_t *contexts) {
    for (size_t i = 0; i < n; i++) {
        int context = at - 2 * (int)(predictions[i] >> 23 & 0xFF);
        context = context > 0 ? context : 0;
        contexts[i] = (uint8_t)(context < CONTEXTS - 1 ? context : CONTEXTS - 1);
    }
}

enum { BRAIN_MANTISSA = 7, HALF_MANTISSA = 10 };

__attribute__((always_inline)) static inline void contexts16_by(const int mantissa, const uint16_t *predictions, size_t n,
                                                                uint16_t mask, int at, uint8_t *contexts) {
    for (size_t i = 0; i < n; i++) {
        int16_t context = (int16_t)(at - 2 * (int16_t)((uint16_t)(predictions[i] >> mantissa) & mask));
        context = context > 0 ? context : 0;
        contexts[i] = (uint8_t)(context < CONTEXTS - 1 ? context : CONTEXTS - 1);
    }
}

static void contexts16(const uint16_t *predictions, size_t n, int mantissa, uint32_t level_mask, int at,
                       uint8_t *contexts) {
    if (mantissa == BRAIN_MANTISSA) {
        contexts16_by(BRAIN_MANTISSA, predictions, n, (uint16_t)level_mask, at, contexts);
    } else {
        contexts16_by(HALF_MANTISSA, predictions, n, (uint16_t)level_mask, at, contexts);
    }
}

#ifndef BYTE_VECTORS
static void assign(uint8_t *contexts, size_t n, const uint8_t *bounds, int tables) {
    size_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        uint8_t table[STEP] = {0};
        for (int j = 1; j < tables; j++) {
            for (int k = 0; k < STEP; k++) table[k] = (uint8_t)(table[k] + (contexts[i + k] >= bounds[j]));
        }
        memcpy(contexts + i, table, STEP);
    }
    for (; i < n; i++) {
        int table = 0;
        while (table + 1 < tables && contexts[i] >= bounds[table + 1]) table++;
        contexts[i] = (uint8_t)table;
    }
}

static uint32_t sum(const uint8_t *tokens, size_t n) {
    uint32_t total = 0;
    for (size_t i = 0; i < n; i++) total += tokens[i];
    return total;
}
#endif

static void levels32(const uint32_t *words, size_t n, uint8_t *levels) {
    for (size_t i = 0; i < n; i++) levels[i] = (uint8_t)(words[i] >> 23);
}

__attribute__((always_inline)) static inline void levels16_by(const int mantissa, const uint16_t *words, size_t n,
                                                              uint16_t mask, uint8_t *levels) {
    for (size_t i = 0; i < n; i++) levels[i] = (uint8_t)((uint16_t)(words[i] >> mantissa) & mask);
}

static void levels16(const uint16_t *words, size_t n, int mantissa, uint32_t level_mask, uint8_t *levels) {
    if (mantissa == BRAIN_MANTISSA) {
        levels16_by(BRAIN_MANTISSA, words, n, (uint16_t)level_mask, levels);
    } else {
        levels16_by(HALF_MANTISSA, words, n, (uint16_t)level_mask, levels);
    }
}

/* 256 times the token to expect at context c of a block whose scale was found right, for c from -62 to 125: Laplace-like
   residuals of words that were rounded at random. */
enum { LEAST_CONTEXT = -62, GUESSES = 16, GUESSES_BELOW = 10 };
static const uint16_t EXPECTED[] = {
    [0 ... 61] = 1,
    1,    2,    3,    4,    6,    9,    13,   18,   25,   36,   51,    72,    103,   147,   211,   300,
    416,  560,  728,  919,  1126, 1347, 1577, 1815, 2058, 2305, 2555,  2806,  3059,  3313,  3567,  3822,
    4077, 4352, 4608, 4864, 5120, 5376, 5632, 5888, 6144, 6400, 6656,  6912,  7168,  7424,  7680,  7936,
    8192, 8448, 8704, 8960, 9216, 9472, 9728, 9984, 10240, 10496, 10752, 11008, 11264, 11520, 11776, 12032,
    [126 ... 191] = 12032,
};

static Contexts count_tokens(const uint8_t *contexts, const uint8_t *tokens, size_t n, int stride_log, uint32_t *counts) {
    uint8_t least = CONTEXTS - 1, most = 0;
    for (size_t i = 0; i < n; i++) {
        least = contexts[i] < least ? contexts[i] : least;
        most = contexts[i] > most ? contexts[i] : most;
    }
    size_t i = 0;
    const size_t first = (size_t)least << stride_log, count = n ? (((size_t)most + 1) << stride_log) - first : 0;
    memset(counts + first, 0, count * sizeof *counts);
    if (n >= count) {
        /* Counters of their own for every fourth one, or every second one if those of four do not fit or are not worth it:
           neighbours often hit the same, and what is counted is waited for. */
        enum { ROOM = CONTEXTS * MAX_ALPHABET };
        uint32_t more[ROOM], *one = counts + first, *other[3] = {more, one, more};
        const size_t sets = 3 * count <= ROOM && n >= 4 * count ? 3 : 1;
        const uint16_t stride = (uint16_t)(1 << stride_log), begin = (uint16_t)first;
        for (size_t j = 0; j < sets; j++) other[j] = more + j * count;
        memset(more, 0, sets * count * sizeof *more);
        for (; i + 4 * STEP <= n; i += 4 * STEP) {
            uint16_t place[4 * STEP];
            for (int j = 0; j < 4 * STEP; j++) place[j] = (uint16_t)(contexts[i + j] * stride + tokens[i + j] - begin);
            for (int j = 0; j < 4 * STEP; j += 4) {
                one[place[j]]++;
                other[0][place[j + 1]]++;
                other[1][place[j + 2]]++;
                other[2][place[j + 3]]++;
            }
        }
        for (size_t k = 0; k < sets; k++) {
            for (size_t j = 0; j < count; j++) one[j] += more[k * count + j];
        }
    }
    for (; i < n; i++) counts[contexts[i] << stride_log | tokens[i]]++;
    return (Contexts){least, most};
}

/* 256 * log2(1 + i / 256), rounded. */
static const uint8_t LOGARITHM[256 + 3] = { /* three are read behind the last */
    0, 1, 3, 4, 6, 7, 9, 10, 11, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25, 26,
    28, 29, 30, 32, 33, 34, 36, 37, 38, 40, 41, 42, 44, 45, 46, 47, 49, 50, 51, 52,
    54, 55, 56, 57, 59, 60, 61, 62, 63, 65, 66, 67, 68, 69, 71, 72, 73, 74, 75, 77,
    78, 79, 80, 81, 82, 84, 85, 86, 87, 88, 89, 90, 92, 93, 94, 95, 96, 97, 98, 99,
    100, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 116, 117, 118, 119, 120, 121,
    122, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 141,
    142, 143, 144, 145, 146, 147, 148, 149, 150, 151, 152, 153, 154, 155, 155, 156, 157, 158, 159, 160,
    161, 162, 163, 164, 165, 166, 167, 168, 169, 169, 170, 171, 172, 173, 174, 175, 176, 177, 178, 178,
    179, 180, 181, 182, 183, 184, 185, 185, 186, 187, 188, 189, 190, 191, 192, 192, 193, 194, 195, 196,
    197, 198, 198, 199, 200, 201, 202, 203, 203, 204, 205, 206, 207, 208, 208, 209, 210, 211, 212, 212,
    213, 214, 215, 216, 216, 217, 218, 219, 220, 220, 221, 222, 223, 224, 224, 225, 226, 227, 228, 228,
    229, 230, 231, 231, 232, 233, 234, 234, 235, 236, 237, 238, 238, 239, 240, 241, 241, 242, 243, 244,
    244, 245, 246, 247, 247, 248, 249, 249, 250, 251, 252, 252, 253, 254, 255, 255,
};

/* 256 * log2(value), value at least 1. */
static inline uint32_t logarithm(uint32_t value) {
    const int whole = floor_log2(value);
    return 256 * (uint32_t)whole + LOGARITHM[(((uint64_t)value << 8) >> whole) & 255];
}

enum { MOST_BITS = 256 * FREQUENCY_BITS };

/* No product passes 32 bits: count * log2(total / count) is at most 0.54 * total, and chunks have at most 2^24 words. */
static inline uint32_t cost_of_count(uint32_t count, uint32_t whole) {
    if (!count) return 0;
    const uint32_t bits = whole - logarithm(count);
    return count * (bits < MOST_BITS ? bits : MOST_BITS);
}

#ifndef BYTE_VECTORS
static uint64_t token_bits(const uint32_t *one, const uint32_t *other, size_t n, uint32_t total) {
    const uint32_t whole = logarithm(total);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += cost_of_count(one[i] + other[i], whole);
    return sum;
}
#endif

static uint32_t count_nonzero(const uint8_t *tokens, size_t n) {
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) count += tokens[i] != 0;
    return count;
}

static void residual_lengths(const uint8_t *tokens, size_t n, uint8_t *lengths) {
    for (size_t i = 0; i < n; i++) lengths[i] = (uint8_t)((tokens[i] < 4 ? 1 : tokens[i] >> 1) - 1);
}

static void level_lengths(const uint8_t *tokens, size_t n, int rest, int zero, uint8_t *lengths) {
    for (size_t i = 0; i < n; i++) lengths[i] = (uint8_t)(tokens[i] ? rest : zero);
}

static inline void append(uint64_t value, unsigned length, uint8_t **at, uint64_t *held, unsigned *count) {
    *held |= value << *count;
    *count += length;
    memcpy(*at, held, sizeof *held);
    *at += *count >> 3;
    *held >>= *count & ~7u;
    *count &= 7;
}

static inline uint64_t lowest(uint64_t value, unsigned length) { return value & (((uint64_t)1 << length) - 1); }

static inline bool are_all(const uint8_t *lengths, size_t n, uint8_t length) {
    uint8_t differ = 0;
    for (size_t i = 0; i < n; i++) differ |= lengths[i] ^ length;
    return !differ;
}

enum { AT_ONCE = 56 }; /* bits that are appended in one step, at most */

/* Values are joined two by two, or four by four, by vectors or by instructions that gather bits; what is left is one step
   a group, of at most 56 bits. Of keyframes each word's rest has the same whole bytes, but for zeros. */

/* What many pairs, or fours, are made ready by, and what one of them is then: `ready` is the function's own. */
typedef void ReadyPairs(const uint32_t values[2 * STEP], const uint8_t lengths[2 * STEP], uint64_t ready[STEP]);
typedef uint64_t OneGroup(const void *values, uint64_t ready);

/* Words of 32 bits two by two in words of 64: that is what compilers find vectors for. */
static inline void join_pairs(const uint32_t *values, const uint8_t *lengths, uint64_t *pair) {
    uint32_t cut[2 * STEP], length[2 * STEP];
    uint64_t cuts[STEP], both[STEP];
    for (int j = 0; j < 2 * STEP; j++) length[j] = lengths[j];
    for (int j = 0; j < 2 * STEP; j++) cut[j] = values[j] & ((1u << length[j]) - 1);
    memcpy(cuts, cut, sizeof cuts);
    memcpy(both, length, sizeof both);
    for (int j = 0; j < STEP; j++) pair[j] = (cuts[j] & 0xFFFFFFFF) | cuts[j] >> 32 << (both[j] & 63);
}

static inline uint64_t joined(const void *values, uint64_t group) {
    (void)values;
    return group;
}

__attribute__((always_inline)) static inline size_t pack32_by(ReadyPairs *make_ready, OneGroup *pair,
                                                              const uint32_t *values, const uint8_t *lengths, size_t n,
                                                              uint8_t *stream) {
    if (are_all(lengths, n, 24)) {
        for (size_t i = 0; i + 1 < n; i += 2) {
            const uint64_t both = (values[i] & 0xFFFFFF) | (uint64_t)values[i + 1] << 24;
            memcpy(stream + 3 * i, &both, sizeof both);
        }
        if (n & 1) memcpy(stream + 3 * (n - 1), &values[n - 1], sizeof *values);
        return 24 * n;
    }
    uint8_t *at = stream;
    uint64_t held = 0, ready[STEP];
    unsigned count = 0;
    size_t i = 0;
    for (; i + 2 * STEP <= n; i += 2 * STEP) {
        const uint32_t *some = values + i;
        uint8_t of_two[STEP], of_four[STEP / 2], most = 0, most_of_four = 0;
        make_ready(some, lengths + i, ready);
        for (int j = 0; j < STEP; j++) of_two[j] = (uint8_t)(lengths[i + 2 * j] + lengths[i + 2 * j + 1]);
        for (int j = 0; j < STEP; j++) most = of_two[j] > most ? of_two[j] : most;
        for (int j = 0; j < STEP / 2; j++) {
            of_four[j] = (uint8_t)(of_two[2 * j] + of_two[2 * j + 1]);
            most_of_four = of_four[j] > most_of_four ? of_four[j] : most_of_four;
        }
        if (most_of_four <= AT_ONCE) {
#pragma GCC unroll 4
            for (int j = 0; j < STEP; j += 2) {
                const uint64_t four = pair(some + 2 * j, ready[j]) | pair(some + 2 * j + 2, ready[j + 1]) << of_two[j];
                append(four, of_four[j / 2], &at, &held, &count);
            }
        } else if (most <= AT_ONCE) {
#pragma GCC unroll 4
            for (int j = 0; j < STEP; j++) append(pair(some + 2 * j, ready[j]), of_two[j], &at, &held, &count);
        } else {
            for (int j = 0; j < 2 * STEP; j++) append(lowest(some[j], lengths[i + j]), lengths[i + j], &at, &held, &count);
        }
    }
    for (; i < n; i++) append(lowest(values[i], lengths[i]), lengths[i], &at, &held, &count);
    return (size_t)(at - stream) * 8 + count;
}

static size_t pack32(const uint32_t *values, const uint8_t *lengths, size_t n, uint8_t *stream) {
    return pack32_by(join_pairs, joined, values, lengths, n, stream);
}

#ifndef BYTE_VECTORS
/* A bit for each of sixty-four bytes that is not 0. */
static inline uint64_t present(const uint8_t *bytes) {
    uint64_t found = 0;
    for (int j = 0; j < 8; j++) {
        uint64_t eight;
        memcpy(&eight, bytes + 8 * j, sizeof eight);
        eight |= eight >> 4 & 0x0F0F0F0F0F0F0F0F;
        eight |= eight >> 2 & 0x0303030303030303;
        eight = (eight | eight >> 1) & 0x0101010101010101;
        found |= (eight * 0x0102040810204080 >> 56) << 8 * j;
    }
    return found;
}
#endif

/* Of residuals of 16 bits few may have tails: of ShuffleNet's in bf16 one in eighteen. Then those are found first, and it
   is they alone that are gone through. With a fourth of them, going through all takes about as long. */
enum { TAILED = 4 * STEP, FEW_TAILS = TAILED / 4, PLACES_AT_ONCE = 8 };

/* Where lengths are not 0, of TAILED; returns how many are. */
static inline size_t find_tails(const uint8_t *lengths, uint8_t places[TAILED + PLACES_AT_ONCE]) {
    size_t found = 0;
    for (int first = 0; first < TAILED; first += 64) {
        uint64_t mask = present(lengths + first);
        const size_t count = (size_t)__builtin_popcountll(mask);
        /* More than there are, rather than a loop whose end is not foreseen. */
        for (size_t k = 0; k == 0 || k < count; k += PLACES_AT_ONCE) {
            uint64_t eight = (uint64_t)first * 0x0101010101010101;
            for (int j = 0; j < PLACES_AT_ONCE; j++) {
                eight += (uint64_t)__builtin_ctzll(mask | (uint64_t)1 << 63) << 8 * j;
                mask &= mask - 1;
            }
            memcpy(places + found + k, &eight, sizeof eight);
        }
        found += count;
    }
    return found;
}

static inline bool are_few(const uint8_t *lengths) {
    uint8_t count = 0; /* of no more than TAILED, and all are not few */
    for (int j = 0; j < TAILED; j++) count = (uint8_t)(count + (lengths[j] != 0));
    return count <= FEW_TAILS && (count || !lengths[0]);
}

typedef void ReadyFours(const uint16_t values[TAILED], const uint8_t lengths[TAILED], uint64_t ready[STEP]);

static inline void join_fours(const uint16_t *values, const uint8_t *lengths, uint64_t *four) {
    uint32_t pair[2 * STEP];
    for (int j = 0; j < 2 * STEP; j++) {
        uint32_t one = lengths[2 * j], two = lengths[2 * j + 1], words;
        memcpy(&words, values + 2 * j, sizeof words);
        pair[j] = (words & ((1u << one) - 1)) | (words >> 16 & ((1u << two) - 1)) << one;
    }
    for (int j = 0; j < STEP; j++) {
        four[j] = pair[2 * j] | (uint64_t)pair[2 * j + 1] << (lengths[4 * j] + lengths[4 * j + 1]);
    }
}

__attribute__((always_inline)) static inline size_t pack16_by(ReadyFours *make_ready, OneGroup *four,
                                                              const uint16_t *values, const uint8_t *lengths, size_t n,
                                                              uint8_t *stream) {
    if (are_all(lengths, n, 8)) {
        for (size_t i = 0; i < n; i++) stream[i] = (uint8_t)values[i];
        return 8 * n;
    }
    uint8_t *at = stream;
    uint64_t held = 0, ready[STEP];
    unsigned count = 0;
    size_t i = 0;
    for (; i + TAILED <= n; i += TAILED) {
        if (are_few(lengths + i)) {
            uint8_t places[TAILED + PLACES_AT_ONCE];
            const size_t found = find_tails(lengths + i, places);
            for (size_t j = 0; j < found; j++) {
                const unsigned length = lengths[i + places[j]];
                append(lowest(values[i + places[j]], length), length, &at, &held, &count);
            }
            continue;
        }
        uint32_t of_four[STEP];
        memcpy(of_four, lengths + i, sizeof of_four);
        for (int j = 0; j < STEP; j++) of_four[j] = of_four[j] * 0x01010101u >> 24;
        make_ready(values + i, lengths + i, ready);
#pragma GCC unroll 4
        for (int j = 0; j < STEP; j++) append(four(values + i + 4 * j, ready[j]), of_four[j], &at, &held, &count);
    }
    for (; i < n; i++) append(lowest(values[i], lengths[i]), lengths[i], &at, &held, &count);
    return (size_t)(at - stream) * 8 + count;
}

static size_t pack16(const uint16_t *values, const uint8_t *lengths, size_t n, uint8_t *stream) {
    return pack16_by(join_fours, joined, values, lengths, n, stream);
}

static inline uint64_t bits_at(const uint8_t *stream, size_t bit) {
    uint64_t held;
    memcpy(&held, stream + (bit >> 3), sizeof held);
    return held >> (bit & 7);
}

/* A loop of few steps finds where pairs or fours begin; what is in them is taken apart by vectors, or by instructions that
   scatter bits. */

/* Given what each pair, or four, has in all; returns the bit behind them. */
typedef size_t TakePairs(uint32_t *restrict values, const uint8_t *restrict lengths, const uint8_t of_two[STEP],
                         const uint8_t *stream, size_t bit);

static inline size_t take_pairs(uint32_t *restrict values, const uint8_t *restrict lengths, const uint8_t *of_two,
                                const uint8_t *stream, size_t bit) {
    uint64_t held[STEP];
    for (int j = 0; j < STEP; j++) {
        held[j] = bits_at(stream, bit);
        bit += of_two[j];
    }
    for (int j = 0; j < STEP; j++) {
        const uint32_t one = lengths[2 * j], two = lengths[2 * j + 1];
        values[2 * j] = (uint32_t)held[j] & ((1u << one) - 1);
        values[2 * j + 1] = (uint32_t)(held[j] >> one) & ((1u << two) - 1);
    }
    return bit;
}

__attribute__((always_inline)) static inline size_t unpack32_by(TakePairs *take, uint32_t *restrict values,
                                                                const uint8_t *restrict lengths, size_t n,
                                                                const uint8_t *stream, size_t bit) {
    enum { MOST = 57 }; /* bits that there are from any on */
    size_t i = 0;
    if (bit % 8 == 0 && are_all(lengths, n, 24)) {
        for (const uint8_t *at = stream + bit / 8; i < n; i++, at += 3) {
            uint32_t value;
            memcpy(&value, at, sizeof value);
            values[i] = value & 0xFFFFFF;
        }
        return bit + 24 * n;
    }
    for (; i + 2 * STEP <= n; i += 2 * STEP) {
        uint8_t of_two[STEP], most = 0;
        for (int j = 0; j < STEP; j++) {
            of_two[j] = (uint8_t)(lengths[i + 2 * j] + lengths[i + 2 * j + 1]);
            most = of_two[j] > most ? of_two[j] : most;
        }
        if (most > MOST) {
            for (int j = 0; j < 2 * STEP; j++) {
                values[i + j] = (uint32_t)lowest(bits_at(stream, bit), lengths[i + j]);
                bit += lengths[i + j];
            }
            continue;
        }
        bit = take(values + i, lengths + i, of_two, stream, bit);
    }
    for (; i < n; i++) {
        values[i] = (uint32_t)lowest(bits_at(stream, bit), lengths[i]);
        bit += lengths[i];
    }
    return bit;
}

static size_t unpack32(uint32_t *restrict values, const uint8_t *restrict lengths, size_t n, const uint8_t *stream,
                       size_t bit) {
    return unpack32_by(take_pairs, values, lengths, n, stream, bit);
}

/* If all are whole bytes, as of most keyframes. */
static inline bool unpack_bytes(uint16_t *restrict values, const uint8_t *restrict lengths, size_t n,
                                const uint8_t *stream, size_t bit) {
    if (bit % 8 || !are_all(lengths, n, 8)) return false;
    for (size_t i = 0; i < n; i++) values[i] = stream[bit / 8 + i];
    return true;
}

typedef size_t TakeFours(uint16_t *restrict values, const uint8_t *restrict lengths, const uint32_t of_four[STEP],
                         const uint8_t *stream, size_t bit);

static inline size_t take_fours(uint16_t *restrict values, const uint8_t *restrict lengths, const uint32_t *of_four,
                                const uint8_t *stream, size_t bit) {
    uint64_t held[STEP];
    for (int j = 0; j < STEP; j++) {
        held[j] = bits_at(stream, bit);
        bit += of_four[j];
    }
    for (int j = 0; j < STEP; j++) {
        const uint8_t *length = lengths + 4 * j;
        const uint32_t two = (uint32_t)length[0] + length[1], three = two + length[2];
        values[4 * j] = (uint16_t)((uint32_t)held[j] & ((1u << length[0]) - 1));
        values[4 * j + 1] = (uint16_t)((uint32_t)(held[j] >> length[0]) & ((1u << length[1]) - 1));
        values[4 * j + 2] = (uint16_t)((uint32_t)(held[j] >> two) & ((1u << length[2]) - 1));
        values[4 * j + 3] = (uint16_t)((uint32_t)(held[j] >> three) & ((1u << length[3]) - 1));
    }
    return bit;
}

__attribute__((always_inline)) static inline size_t unpack16_by(TakeFours *take, uint16_t *restrict values,
                                                                const uint8_t *restrict lengths, size_t n,
                                                                const uint8_t *stream, size_t bit) {
    size_t i = 0;
    if (unpack_bytes(values, lengths, n, stream, bit)) return bit + 8 * n;
    for (; i + TAILED <= n; i += TAILED) {
        if (are_few(lengths + i)) {
            uint8_t places[TAILED + PLACES_AT_ONCE];
            const size_t found = find_tails(lengths + i, places);
            size_t bytes = TAILED * sizeof *values;
            __asm__("" : "+r"(bytes)); /* if it is known, compilers have bytes set one by one */
            memset(values + i, 0, bytes);
            for (size_t j = 0; j < found; j++) {
                const unsigned length = lengths[i + places[j]];
                values[i + places[j]] = (uint16_t)lowest(bits_at(stream, bit), length);
                bit += length;
            }
            continue;
        }
        uint32_t of_four[STEP];
        memcpy(of_four, lengths + i, sizeof of_four);
        for (int j = 0; j < STEP; j++) of_four[j] = of_four[j] * 0x01010101u >> 24;
        bit = take(values + i, lengths + i, of_four, stream, bit);
    }
    for (; i < n; i++) {
        values[i] = (uint16_t)lowest(bits_at(stream, bit), lengths[i]);
        bit += lengths[i];
    }
    return bit;
}

static size_t unpack16(uint16_t *restrict values, const uint8_t *restrict lengths, size_t n, const uint8_t *stream,
                       size_t bit) {
    return unpack16_by(take_fours, values, lengths, n, stream, bit);
}

static void set_slots(uint32_t *slots, const uint16_t *frequency, int low, int count) {
    enum { AT_ONCE = SLOTS_ROOM / 4 }; /* what most symbols have: a loop of one round is foreseen */
    for (int i = 0; i < count; i++) {
        const uint32_t slot = (uint32_t)(low + i) << 23 | (uint32_t)frequency[i] << 11;
        for (uint32_t k = 0; k < frequency[i]; k += AT_ONCE) {
            for (uint32_t j = 0; j < AT_ONCE; j++) slots[k + j] = slot + k + j;
        }
        slots += frequency[i];
    }
}

static uint32_t split32(const uint32_t *words, size_t n, int shift, uint8_t *levels, uint32_t *rests) {
    uint32_t low = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t level = words[i] >> 23 & 0xFF;
        low |= level ? 0 : words[i];
        levels[i] = (uint8_t)level;
        rests[i] = (words[i] & 0x7FFFFF) >> shift | words[i] >> 31 << (23 - shift);
    }
    return low;
}

__attribute__((always_inline)) static inline uint32_t split16_by(const int mantissa, const int shift, const uint16_t *words,
                                                                 size_t n, uint16_t mask, uint8_t *levels,
                                                                 uint16_t *rests) {
    const uint16_t below = (uint16_t)((1 << mantissa) - 1);
    uint16_t low = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t level = (uint16_t)(words[i] >> mantissa) & mask;
        low |= level ? 0 : words[i];
        levels[i] = (uint8_t)level;
        rests[i] = (uint16_t)((words[i] & below) >> shift | words[i] >> 15 << (mantissa - shift));
    }
    return low;
}

static uint32_t split16(const uint16_t *words, size_t n, int mantissa, uint32_t level_mask, int shift, uint8_t *levels,
                        uint16_t *rests) {
    const uint16_t mask = (uint16_t)level_mask;
    return shift                        ? split16_by(mantissa, shift, words, n, mask, levels, rests)
           : mantissa == BRAIN_MANTISSA ? split16_by(BRAIN_MANTISSA, 0, words, n, mask, levels, rests)
                                        : split16_by(HALF_MANTISSA, 0, words, n, mask, levels, rests);
}

static void join32(uint32_t *words, const uint8_t *levels, const uint32_t *rests, size_t n, int shift) {
    const uint32_t below = (1u << (23 - shift)) - 1;
    for (size_t i = 0; i < n; i++) {
        words[i] = (rests[i] & below) << shift | (uint32_t)levels[i] << 23 | rests[i] >> (23 - shift) << 31;
    }
}

__attribute__((always_inline)) static inline void join16_by(const int mantissa, const int shift, uint16_t *words,
                                                            const uint8_t *levels, const uint16_t *rests, size_t n) {
    const uint32_t below = (1u << (mantissa - shift)) - 1;
    for (size_t i = 0; i < n; i++) {
        words[i] = (uint16_t)((rests[i] & below) << shift | (uint32_t)levels[i] << mantissa |
                              (uint32_t)rests[i] >> (mantissa - shift) << 15);
    }
}

static void join16(uint16_t *words, const uint8_t *levels, const uint16_t *rests, size_t n, int mantissa, int shift) {
    if (shift) {
        join16_by(mantissa, shift, words, levels, rests, n);
    } else if (mantissa == BRAIN_MANTISSA) {
        join16_by(BRAIN_MANTISSA, 0, words, levels, rests, n);
    } else {
        join16_by(HALF_MANTISSA, 0, words, levels, rests, n);
    }
}

static uint32_t any32(const uint32_t *words, size_t n) {
    uint32_t all = 0;
    for (size_t i = 0; i < n; i++) all |= words[i];
    return all;
}

static uint32_t any16(const uint16_t *words, size_t n) {
    uint16_t all = 0;
    for (size_t i = 0; i < n; i++) all |= words[i];
    return all;
}

/* Predictions. A word is special if its level is 0 or the highest; special words predict themselves, and so does every
   word whose prediction comes out special. Subnormal numbers never enter, so the host's flush-to-zero modes do not
   matter. */

/* Not for subnormal words. */
static inline float value_of_half(uint16_t word) {
    uint32_t magnitude = ((uint32_t)(word & 0x7FFF) << 13) + (112u << 23);
    magnitude |= (word & 0x7C00) == 0x7C00 ? 0x7F800000 : 0;
    return float_of_bits((uint32_t)(word & 0x8000) << 16 | magnitude);
}

/* Nearest half, ties to even, where that is a normal number; else something special. */
static inline uint16_t half_of_value(float value) {
    uint32_t bits = bits_of_float(value), magnitude = bits & 0x7FFFFFFF;
    uint32_t rounded = ((magnitude + 0xFFF + (magnitude >> 13 & 1)) >> 13) - (112u << 10);
    rounded = magnitude < 113u << 23 ? (magnitude >= 0x387FE000u ? 0x400 : 0) : rounded;
    rounded = rounded > 0x7C00 ? 0x7C00 : rounded;
    return (uint16_t)((bits >> 16 & 0x8000) | rounded);
}

static inline uint16_t brain_of_value(float value) {
    uint32_t bits = bits_of_float(value);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline float brain_value(uint16_t word) { return float_of_bits((uint32_t)word << 16); }
static inline float plain_value(uint32_t word) { return float_of_bits(word); }
static inline uint32_t plain_of_value(float value) { return bits_of_float(value); }

/* STEP words multiplied by one factor again and again: vectors of the language, which stay in registers meanwhile. */

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#elif defined(__AVX2__)
enum { LANES = 8, VECTORS = 8 };
#else
enum { LANES = 4, VECTORS = 8 };
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

static inline void repeat_f32(uint32_t *words, float factor, uint32_t repeats) {
    Floats now[VECTORS];
    for (int i = 0; i < STEP; i += LANES * VECTORS) {
        memcpy(now, words + i, sizeof now);
        for (uint32_t k = 0; k < repeats; k++) {
            for (int j = 0; j < VECTORS; j++) now[j] *= factor;
        }
        memcpy(words + i, now, sizeof now);
    }
}

static inline void repeat_bf16(uint16_t *words, float factor, uint32_t repeats) {
    uint32_t wide[STEP];
    for (int i = 0; i < STEP; i++) wide[i] = (uint32_t)words[i] << 16;
    Words now[VECTORS];
    for (int i = 0; i < STEP; i += LANES * VECTORS) {
        memcpy(now, wide + i, sizeof now);
        for (uint32_t k = 0; k < repeats; k++) {
            for (int j = 0; j < VECTORS; j++) {
                const Words product = (Words)((Floats)now[j] * factor);
                now[j] = (product + 0x7FFF + (product >> 16 & 1)) & 0xFFFF0000u;
            }
        }
        memcpy(wide + i, now, sizeof now);
    }
    for (int i = 0; i < STEP; i++) words[i] = (uint16_t)(wide[i] >> 16);
}

static inline void repeat_f16(uint16_t *words, float factor, uint32_t repeats) {
    for (uint32_t k = 0; k < repeats; k++) {
        for (int i = 0; i < STEP; i++) words[i] = half_of_value(value_of_half(words[i]) * factor);
    }
}

/* The number of a reference behind the first: what has level 0 counts as 0. */
#define TAKEN(word, LEVEL, VALUE) (LEVEL(word) ? (double)VALUE(word) : 0.0)
#define SPECIAL(level, TOP) ((unsigned)((level)-1) >= (TOP)-1)

#define PREDICT(NAME, WORD, VALUE, OF_VALUE, LEVEL, TOP, REPEAT)                                                       \
    static void NAME(const Predictor *predictor, const void *const *references, size_t n, void *predictions) {         \
        const WORD *base = references[0];                                                                              \
        WORD *out = predictions;                                                                                       \
        const double a = predictor->a;                                                                                 \
        switch (predictor->kind) {                                                                                     \
        case PREVIOUS:                                                                                                 \
            if (out != base) memcpy(out, base, n * sizeof *out);                                                       \
            return;                                                                                                    \
        case SCALED:                                                                                                   \
            if ((double)(float)a == a) { /* then one float product is the rounded double one */                        \
                for (size_t i = 0; i < n; i++) {                                                                       \
                    WORD word = base[i], found = OF_VALUE((float)a * VALUE(word));                                     \
                    out[i] = SPECIAL(LEVEL(word), TOP) | SPECIAL(LEVEL(found), TOP) ? word : found;                    \
                }                                                                                                      \
                return;                                                                                                \
            }                                                                                                          \
            for (size_t i = 0; i < n; i++) {                                                                           \
                WORD word = base[i], found = OF_VALUE((float)(a * (double)VALUE(word)));                               \
                out[i] = SPECIAL(LEVEL(word), TOP) | SPECIAL(LEVEL(found), TOP) ? word : found;                        \
            }                                                                                                          \
            return;                                                                                                    \
        case DECAYED:                                                                                                  \
            for (size_t start = 0; start < n; start += STEP) {                                                         \
                const size_t count = n - start < STEP ? n - start : STEP;                                              \
                WORD now[STEP] = {0}, bad[STEP];                                                                       \
                for (size_t i = 0; i < count; i++) {                                                                   \
                    now[i] = base[start + i];                                                                          \
                    bad[i] = SPECIAL(LEVEL(now[i]), TOP);                                                              \
                    now[i] = bad[i] ? 0 : now[i];                                                                      \
                }                                                                                                      \
                for (int run = 0; run < predictor->runs; run++) {                                                      \
                    const double factor = predictor->run[run].factor;                                                  \
                    const uint32_t repeats = predictor->run[run].repeats;                                              \
                    const float narrow = (float)factor;                                                                \
                    if ((double)narrow == factor) { /* as above */                                                     \
                        REPEAT(now, narrow, repeats);                                                                  \
                    } else {                                                                                           \
                        for (uint32_t k = 0; k < repeats; k++) {                                                       \
                            for (size_t i = 0; i < count; i++) now[i] = OF_VALUE((float)(factor * (double)VALUE(now[i])));\
                        }                                                                                              \
                    }                                                                                                  \
                    /* A product that came out special stays so as long as the factor is the same. */                  \
                    for (size_t i = 0; i < count; i++) bad[i] |= SPECIAL(LEVEL(now[i]), TOP);                          \
                }                                                                                                      \
                for (size_t i = 0; i < count; i++) out[start + i] = bad[i] ? base[start + i] : now[i];                 \
            }                                                                                                          \
            return;                                                                                                    \
        case COMBINED:                                                                                                 \
            for (size_t start = 0; start < n; start += STEP) {                                                         \
                const size_t count = n - start < STEP ? n - start : STEP;                                              \
                double sum[STEP];                                                                                      \
                for (size_t i = 0; i < count; i++) sum[i] = a * (double)VALUE(base[start + i]);                        \
                for (int j = 0; j < predictor->terms; j++) {                                                           \
                    const Term *term = &predictor->term[j];                                                            \
                    const WORD *first = (const WORD *)references[term->reference] + start;                             \
                    const double factor = term->factor, epsilon = term->epsilon;                                       \
                    if (term->kind == WORD_TERM) {                                                                     \
                        for (size_t i = 0; i < count; i++) sum[i] += factor * TAKEN(first[i], LEVEL, VALUE);           \
                    } else if (term->kind == SQUARE_TERM) {                                                            \
                        for (size_t i = 0; i < count; i++) {                                                           \
                            double number = TAKEN(first[i], LEVEL, VALUE);                                             \
                            sum[i] += factor * (number * number);                                                      \
                        }                                                                                              \
                    } else {                                                                                           \
                        const WORD *square = (const WORD *)references[term->reference + 1] + start;                    \
                        for (size_t i = 0; i < count; i++) {                                                           \
                            double root = sqrt(TAKEN(square[i], LEVEL, VALUE)) + epsilon;                              \
                            sum[i] += factor * (TAKEN(first[i], LEVEL, VALUE) / root);                                 \
                        }                                                                                              \
                    }                                                                                                  \
                }                                                                                                      \
                for (size_t i = 0; i < count; i++) {                                                                   \
                    WORD word = base[start + i], found = OF_VALUE((float)sum[i]);                                      \
                    out[start + i] = SPECIAL(LEVEL(word), TOP) | SPECIAL(LEVEL(found), TOP) ? word : found;            \
                }                                                                                                      \
            }                                                                                                          \
            return;                                                                                                    \
        }                                                                                                              \
    }

static void count_strides(const uint32_t *words, const uint32_t *reference, size_t n, double a, double s, int odd,
                          int width, uint8_t *tokens) {
    const float factor = (float)a, inverse = (float)(1 / s), half = (float)odd / 2, to_integers = 0x1.8p23f;
    const float limit = (float)(1 << width) / 2;
    for (size_t start = 0; start < n; start += STEP) {
        const size_t count = n - start < STEP ? n - start : STEP;
        int32_t number[STEP];
        for (size_t i = 0; i < count; i++) {
            const float moved = (float_of_bits(words[start + i]) - factor * float_of_bits(reference[start + i])) * inverse;
            const float integer = (moved - half + to_integers) - to_integers;
            number[i] = (int32_t)(fabsf(integer + 0.5f) < limit ? integer : 0.0f);
        }
        for (size_t i = 0; i < count; i++) tokens[start + i] = (uint8_t)((uint32_t)number[i] << 1 ^ (uint32_t)(number[i] >> 31));
    }
}

static void expect_strides(const uint32_t *reference, const uint8_t *tokens, size_t n, double a, double s, int odd,
                           uint32_t *predictions) {
    const float half = (float)odd / 2;
    for (size_t start = 0; start < n; start += STEP) {
        const size_t count = n - start < STEP ? n - start : STEP;
        float number[STEP], found[STEP];
        for (size_t i = 0; i < count; i++) {
            const int32_t token = tokens[start + i];
            number[i] = (float)(token >> 1 ^ -(token & 1)) + half;
        }
        for (size_t i = 0; i < count; i++) {
            found[i] = (float)(a * (double)float_of_bits(reference[start + i]) + s * (double)number[i]);
        }
        for (size_t i = 0; i < count; i++) {
            const uint32_t word = reference[start + i], other = bits_of_float(found[i]);
            predictions[start + i] = SPECIAL(word >> 23 & 0xFF, 0xFF) | SPECIAL(other >> 23 & 0xFF, 0xFF) ? word : other;
        }
    }
}

/* Of each of eight bytes, the first one's bits lowest. */
static inline uint64_t narrowed(uint64_t eight, int width) {
#ifdef __AVX512F__ /* older processors have PEXT and PDEP too, and some take ten times as long */
    return _pext_u64(eight, ((1u << width) - 1) * 0x0101010101010101);
#else
    uint64_t low = 0x00FF00FF00FF00FF;
    eight = (eight & low) | (eight >> 8 & low) << width;
    low = 0x0000FFFF0000FFFF;
    eight = (eight & low) | (eight >> 16 & low) << 2 * width;
    return (eight & UINT32_MAX) | eight >> 32 << 4 * width;
#endif
}

static inline uint64_t widened(uint64_t bits, int width) {
#ifdef __AVX512F__
    return _pdep_u64(bits, ((1u << width) - 1) * 0x0101010101010101);
#else
    uint64_t low = ((uint64_t)1 << 4 * width) - 1;
    bits = (bits & low) | (bits >> 4 * width & low) << 32;
    low = (((uint64_t)1 << 2 * width) - 1) * 0x0000000100000001;
    bits = (bits & low) | (bits >> 2 * width & low) << 16;
    low = (((uint64_t)1 << width) - 1) * 0x0001000100010001;
    return (bits & low) | (bits >> width & low) << 8;
#endif
}

static void narrow(const uint8_t *bytes, size_t n, int width, uint8_t *bits) {
    const size_t rest = n % 8;
    uint64_t eight;
    for (size_t i = 0; i < n - rest; i += 8) {
        memcpy(&eight, bytes + i, 8);
        eight = narrowed(eight, width);
        memcpy(bits, &eight, 8);
        bits += width;
    }
    if (rest) {
        eight = 0;
        memcpy(&eight, bytes + n - rest, rest);
        eight = narrowed(eight, width);
        memcpy(bits, &eight, 8);
    }
}

static void widen(const uint8_t *bits, size_t n, int width, uint8_t *bytes) {
    const uint8_t *end = bits + (n * (size_t)width + 7) / 8;
    uint64_t eight;
    for (size_t i = 0; i < n; i += 8) {
        const uint8_t *at = bits + i / 8 * (size_t)width;
        if (end - at >= 8) {
            memcpy(&eight, at, 8);
        } else {
            eight = 0;
            memcpy(&eight, at, (size_t)(end - at));
        }
        eight = widened(eight, width);
        memcpy(bytes + i, &eight, 8);
    }
}

/* Floats of one sign are in the order of their bits, those below 0 in the other order. */
static inline int32_t place_of_ratio(int32_t bits) { return bits ^ (bits >> 31 & INT32_MAX); }

/* By halves: counting places below one goes by vectors, putting them in order does not. */
static float middle_ratio(const double *target, const double *base, size_t n) {
    int32_t places[MOST_RATIOS];
    for (size_t i = 0; i < n; i++) places[i] = place_of_ratio((int32_t)bits_of_float((float)(target[i] / base[i])));
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (size_t i = 0; i < n; i++) {
        low = places[i] < low ? places[i] : low;
        high = places[i] > high ? places[i] : high;
    }
    while (low < high) {
        const int32_t middle = (int32_t)(((int64_t)low + high) >> 1);
        uint32_t below = 0;
        for (size_t i = 0; i < n; i++) below += places[i] <= middle;
        if (below > n / 2) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return float_of_bits((uint32_t)place_of_ratio(low));
}

#define LEVEL_F32(word) ((word) >> 23 & 0xFF)
#define LEVEL_BF16(word) ((word) >> 7 & 0xFF)
#define LEVEL_F16(word) ((word) >> 10 & 0x1F)

PREDICT(predict_f32, uint32_t, plain_value, plain_of_value, LEVEL_F32, 255u, repeat_f32)
PREDICT(predict_bf16, uint16_t, brain_value, brain_of_value, LEVEL_BF16, 255u, repeat_bf16)
PREDICT(predict_f16, uint16_t, value_of_half, half_of_value, LEVEL_F16, 31u, repeat_f16)

/* Integers on steps. */

#define LOAD(NAME, WORD, NUMBER)                                                                                       \
    static void NAME(const void *words, size_t n, double *numbers) {                                                   \
        const WORD *some = words;                                                                                      \
        for (size_t i = 0; i < n; i++) numbers[i] = NUMBER(some[i]);                                                   \
    }

#define STORE(NAME, WORD, OF_NUMBER)                                                                                   \
    static void NAME(const double *numbers, size_t n, void *words) {                                                   \
        WORD *some = words;                                                                                            \
        for (size_t i = 0; i < n; i++) some[i] = OF_NUMBER(numbers[i]);                                                \
    }

/* Of any half, subnormal or not. */
static inline double number_of_half(uint16_t word) {
    const float small = (float)(word & 0x3FF) * 0x1p-24f;
    const float value = word & 0x7C00 ? value_of_half(word) : word & 0x8000 ? -small : small;
    return (double)value;
}

/* The nearest half, ties to even, subnormal or not: by way of a float that is rounded to odd, which loses no tie. */
static inline uint16_t half_of_number(double number) {
    const float value = (float)number;
    uint32_t bits = bits_of_float(value);
    const double back = (double)value;
    bits -= fabs(back) > fabs(number);
    bits |= back != number;
    const uint32_t magnitude = bits & 0x7FFFFFFF, sign = bits >> 16 & 0x8000;
    if (magnitude >= 113u << 23) {
        const uint32_t rounded = ((magnitude + 0xFFF + (magnitude >> 13 & 1)) >> 13) - (112u << 10);
        return (uint16_t)(sign | (rounded > 0x7C00 ? 0x7C00 : rounded));
    }
    const int shift = 126 - (int)(magnitude >> 23);
    if (shift > 24) return (uint16_t)sign;
    const uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000, below = mantissa & ((1u << shift) - 1);
    uint32_t found = mantissa >> shift;
    found += below > 1u << (shift - 1) || (below == 1u << (shift - 1) && (found & 1));
    return (uint16_t)(sign | found);
}

static inline double number_of_brain(uint16_t word) { return (double)brain_value(word); }
static inline double number_of_plain(uint32_t word) { return (double)plain_value(word); }
static inline uint16_t brain_of_number(double number) { return brain_of_value((float)number); }
static inline uint32_t plain_of_number(double number) { return bits_of_float((float)number); }

LOAD(load_f32, uint32_t, number_of_plain)
LOAD(load_bf16, uint16_t, number_of_brain)
LOAD(load_f16, uint16_t, number_of_half)
STORE(store_f32, uint32_t, plain_of_number)
STORE(store_bf16, uint16_t, brain_of_number)
STORE(store_f16, uint16_t, half_of_number)

/* To the nearest integer, ties to even, of what is within -most and most, or becomes it. */
static inline int32_t held_integer(float value, float most) {
    const float held = value > most ? most : value < -most ? -most : value, to_integers = 0x1.8p23f;
    return (int32_t)(held + to_integers - to_integers);
}

static inline float change_between(float one, float other) {
    const float change = one - other;
    return fabsf(change) < INFINITY ? change : 0;
}

/* In units of which one has `inverse`. */
static inline int16_t rounded_change(float one, float other, float inverse) {
    return (int16_t)held_integer(change_between(one, other) * inverse, MOST_CHANGE);
}

#define FIND_CHANGES(NAME, WORD, VALUE)                                                                                \
    static void NAME(const void *words, const void *others, size_t n, float *changes) {                               \
        const WORD *some = words, *other = others;                                                                     \
        for (size_t i = 0; i < n; i++) changes[i] = change_between((float)VALUE(some[i]), (float)VALUE(other[i]));     \
    }

#define ROUND_CHANGES(NAME, WORD, VALUE)                                                                               \
    static void NAME(const void *words, const void *others, size_t n, float inverse, int16_t *rounded) {           \
        const WORD *some = words, *other = others;                                                                     \
        for (size_t i = 0; i < n; i++) {                                                                               \
            rounded[i] = rounded_change((float)VALUE(some[i]), (float)VALUE(other[i]), inverse);                       \
        }                                                                                                              \
    }

FIND_CHANGES(find_changes_f32, uint32_t, plain_value)
FIND_CHANGES(find_changes_bf16, uint16_t, brain_value)
FIND_CHANGES(find_changes_f16, uint16_t, number_of_half)
ROUND_CHANGES(round_changes_f16, uint16_t, number_of_half)
#ifndef CHANGE_VECTORS
ROUND_CHANGES(round_changes_f32, uint32_t, plain_value)
ROUND_CHANGES(round_changes_bf16, uint16_t, brain_value)
#endif

static void round_singles(const float *numbers, size_t n, float inverse, int16_t *rounded) {
    for (size_t i = 0; i < n; i++) rounded[i] = (int16_t)held_integer(numbers[i] * inverse, MOST_CHANGE);
}

static int64_t dot_shorts(const int16_t *one, const int16_t *other, size_t n) {
    enum { AT_ONCE = 256 }; /* 32 bits hold so many products */
    int64_t sum = 0;
    size_t i = 0;
    for (; i + AT_ONCE <= n; i += AT_ONCE) {
        int32_t some = 0;
        for (size_t j = 0; j < AT_ONCE; j++) some += one[i + j] * other[i + j];
        sum += some;
    }
    int32_t rest = 0;
    for (; i < n; i++) rest += one[i] * other[i];
    return sum + rest;
}

static uint32_t find_most(const int32_t *values, size_t n) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t value = values[i] < 0 ? -(uint32_t)values[i] : (uint32_t)values[i];
        most = value > most ? value : most;
    }
    return most;
}

static void make_short(const int32_t *values, size_t n, int shift, int16_t *shorts) {
    for (size_t i = 0; i < n; i++) shorts[i] = (int16_t)(values[i] >> shift);
}

static void combine(const int16_t *rows, size_t size, const float *by, size_t n, float most, int16_t *sums) {
    enum { ACROSS = PAIR_COLUMNS };
    for (size_t x = 0; x < n; x += ACROSS) {
        float made[PAIR_LINES][ACROSS] = {{0}};
        for (size_t i = 0; i < size; i++) {
            float line[ACROSS];
            for (int k = 0; k < ACROSS; k++) line[k] = rows[i * n + x + (size_t)k];
            for (int j = 0; j < PAIR_LINES; j++) {
                const float times = by[i * PAIR_LINES + (size_t)j];
                for (int k = 0; k < ACROSS; k++) made[j][k] += times * line[k];
            }
        }
        for (size_t j = 0; j < PAIR_LINES; j++) {
            for (size_t k = 0; k < ACROSS; k++) sums[j * n + x + k] = (int16_t)held_integer(made[j][k], most);
        }
    }
}

/* What a pair takes to a sum. */
#if defined(__AVX512BW__)
typedef __m512i Pairs;
static inline Pairs pairs_at(const int32_t *at) { return _mm512_loadu_si512(at); }
static inline void pairs_put(int32_t *at, Pairs pairs) { _mm512_storeu_si512(at, pairs); }
static inline Pairs pairs_of(int32_t pair) { return _mm512_set1_epi32(pair); }
static inline Pairs pairs_add(Pairs sum, Pairs one, Pairs other) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(one, other));
}
#elif defined(__AVX2__)
typedef __m256i Pairs;
static inline Pairs pairs_at(const int32_t *at) { return _mm256_loadu_si256((const __m256i *)at); }
static inline void pairs_put(int32_t *at, Pairs pairs) { _mm256_storeu_si256((__m256i *)at, pairs); }
static inline Pairs pairs_of(int32_t pair) { return _mm256_set1_epi32(pair); }
static inline Pairs pairs_add(Pairs sum, Pairs one, Pairs other) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(one, other));
}
#else
typedef uint32_t Pairs __attribute__((vector_size(16)));
static inline Pairs pairs_at(const int32_t *at) {
    Pairs pairs;
    memcpy(&pairs, at, sizeof pairs);
    return pairs;
}
static inline void pairs_put(int32_t *at, Pairs pairs) { memcpy(at, &pairs, sizeof pairs); }
static inline Pairs pairs_of(int32_t pair) { return (Pairs){0} + (uint32_t)pair; }
typedef int32_t SignedPairs __attribute__((vector_size(16)));
static inline Pairs pairs_add(Pairs sum, Pairs one, Pairs other) {
    const SignedPairs low = ((SignedPairs)(one << 16) >> 16), high = (SignedPairs)one >> 16;
    const SignedPairs other_low = ((SignedPairs)(other << 16) >> 16), other_high = (SignedPairs)other >> 16;
    return sum + (Pairs)low * (Pairs)other_low + (Pairs)high * (Pairs)other_high;
}
#endif

static void multiply_pairs(const int32_t *left, size_t left_stride, const int32_t *right, size_t right_stride, size_t pairs,
                           size_t lines, size_t n, int32_t *out, size_t out_stride) {
    enum { ELEMENTS = sizeof(Pairs) / 4, ACROSS = 2, AT_ONCE = sizeof(Pairs) == 64 ? PAIR_LINES : PAIR_LINES / 2 };
    enum { DEEP = 128 }; /* what of both is read again stays near */
    for (size_t from = 0; from < pairs; from += DEEP) {
        const size_t to = pairs - from < DEEP ? pairs : from + DEEP;
        for (size_t x = 0; x < n; x += ACROSS * ELEMENTS) {
            for (size_t i = 0; i < lines; i += AT_ONCE) {
                Pairs sums[AT_ONCE][ACROSS];
                int32_t *to_sums = out + i * out_stride + x;
#pragma GCC unroll 8
                for (size_t j = 0; j < AT_ONCE; j++) {
                    sums[j][0] = from ? pairs_at(to_sums + j * out_stride) : pairs_of(0);
                    sums[j][1] = from ? pairs_at(to_sums + j * out_stride + ELEMENTS) : pairs_of(0);
                }
                const int32_t *a = left + from * left_stride + i, *b = right + from * right_stride + x;
                for (size_t p = from; p < to; p++) {
                    const Pairs one = pairs_at(b), other = pairs_at(b + ELEMENTS);
#pragma GCC unroll 8
                    for (int j = 0; j < AT_ONCE; j++) {
                        const Pairs factor = pairs_of(a[j]);
                        sums[j][0] = pairs_add(sums[j][0], one, factor);
                        sums[j][1] = pairs_add(sums[j][1], other, factor);
                    }
                    a += left_stride;
                    b += right_stride;
                }
#pragma GCC unroll 8
                for (size_t j = 0; j < AT_ONCE; j++) {
                    pairs_put(to_sums + j * out_stride, sums[j][0]);
                    pairs_put(to_sums + j * out_stride + ELEMENTS, sums[j][1]);
                }
            }
        }
    }
}

static void pair_rows(const int16_t *one, const int16_t *other, size_t n, int32_t *pairs) {
    for (size_t i = 0; i < n; i++) pairs[i] = (int32_t)((uint16_t)one[i] | (uint32_t)(uint16_t)other[i] << 16);
}

#if defined(__AVX512BW__)
static inline void turn_tile(const int32_t *from, size_t columns, int32_t *to, size_t rows) {
    __m512i line[TURNED], part[TURNED];
    for (size_t i = 0; i < TURNED; i++) line[i] = _mm512_loadu_si512(from + i * columns);
    for (size_t i = 0; i < TURNED; i += 2) {
        part[i] = _mm512_unpacklo_epi32(line[i], line[i + 1]);
        part[i + 1] = _mm512_unpackhi_epi32(line[i], line[i + 1]);
    }
    for (size_t i = 0; i < TURNED; i += 4) { /* of four lines, every fourth column from each of four on */
        line[i] = _mm512_unpacklo_epi64(part[i], part[i + 2]);
        line[i + 1] = _mm512_unpackhi_epi64(part[i], part[i + 2]);
        line[i + 2] = _mm512_unpacklo_epi64(part[i + 1], part[i + 3]);
        line[i + 3] = _mm512_unpackhi_epi64(part[i + 1], part[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) {
        const __m512i even = _mm512_shuffle_i32x4(line[i], line[4 + i], 0x88), odd = _mm512_shuffle_i32x4(line[i], line[4 + i], 0xDD);
        const __m512i lower_even = _mm512_shuffle_i32x4(line[8 + i], line[12 + i], 0x88);
        const __m512i lower_odd = _mm512_shuffle_i32x4(line[8 + i], line[12 + i], 0xDD);
        _mm512_storeu_si512(to + i * rows, _mm512_shuffle_i32x4(even, lower_even, 0x88));
        _mm512_storeu_si512(to + (4 + i) * rows, _mm512_shuffle_i32x4(odd, lower_odd, 0x88));
        _mm512_storeu_si512(to + (8 + i) * rows, _mm512_shuffle_i32x4(even, lower_even, 0xDD));
        _mm512_storeu_si512(to + (12 + i) * rows, _mm512_shuffle_i32x4(odd, lower_odd, 0xDD));
    }
}
#elif defined(__AVX2__)
static inline void turn_eight(const int32_t *from, size_t columns, int32_t *to, size_t rows) {
    enum { SIDE = TURNED / 2 };
    __m256i line[SIDE], part[SIDE];
    for (size_t i = 0; i < SIDE; i++) line[i] = _mm256_loadu_si256((const __m256i *)(from + i * columns));
    for (size_t i = 0; i < SIDE; i += 2) {
        part[i] = _mm256_unpacklo_epi32(line[i], line[i + 1]);
        part[i + 1] = _mm256_unpackhi_epi32(line[i], line[i + 1]);
    }
    for (size_t i = 0; i < SIDE; i += 4) { /* of four lines, every fourth column from each of four on */
        line[i] = _mm256_unpacklo_epi64(part[i], part[i + 2]);
        line[i + 1] = _mm256_unpackhi_epi64(part[i], part[i + 2]);
        line[i + 2] = _mm256_unpacklo_epi64(part[i + 1], part[i + 3]);
        line[i + 3] = _mm256_unpackhi_epi64(part[i + 1], part[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) {
        const __m256i low = _mm256_permute2x128_si256(line[i], line[4 + i], 0x20);
        const __m256i high = _mm256_permute2x128_si256(line[i], line[4 + i], 0x31);
        _mm256_storeu_si256((__m256i *)(to + i * rows), low);
        _mm256_storeu_si256((__m256i *)(to + (4 + i) * rows), high);
    }
}

static inline void turn_tile(const int32_t *from, size_t columns, int32_t *to, size_t rows) {
    for (size_t i = 0; i < TURNED; i += TURNED / 2) {
        for (size_t x = 0; x < TURNED; x += TURNED / 2) turn_eight(from + i * columns + x, columns, to + x * rows + i, rows);
    }
}
#else
static inline void turn_tile(const int32_t *from, size_t columns, int32_t *to, size_t rows) {
    for (size_t j = 0; j < TURNED; j++) {
        for (size_t i = 0; i < TURNED; i++) to[j * rows + i] = from[i * columns + j];
    }
}
#endif

static void turn_pairs(const int32_t *pairs, size_t rows, size_t columns, int32_t *turned) {
    for (size_t i = 0; i < rows; i += TURNED) {
        for (size_t x = 0; x < columns; x += TURNED) turn_tile(pairs + i * columns + x, columns, turned + x * rows + i, rows);
    }
}

static void add_row(int32_t *sums, const int16_t *row, size_t n, int32_t sign) {
    for (size_t i = 0; i < n; i++) sums[i] += sign * row[i];
}

static void turn_two(double *one, double *other, size_t n, double cosine, double sine) {
    for (size_t i = 0; i < n; i++) {
        const double before = one[i];
        one[i] = cosine * before - sine * other[i];
        other[i] = sine * before + cosine * other[i];
    }
}

/* All pairs have met after size - 1 rounds: the first stays, the others go around. */
static void go_around(double **lines, size_t half) {
    double *last = lines[half - 1], *first = lines[half];
    for (size_t j = half - 1; j > 1; j--) lines[j] = lines[j - 1];
    lines[1] = first;
    for (size_t j = half; j < 2 * half - 1; j++) lines[j] = lines[j + 1];
    lines[2 * half - 1] = last;
}

static void rotate(double *matrix, double *vectors, size_t rounds, double *values) {
    const size_t size = DIRECTIONS, half = size / 2;
    double *lines[DIRECTIONS], *turned[DIRECTIONS], cosine[DIRECTIONS / 2], sine[DIRECTIONS / 2];
    for (size_t i = 0; i < size; i++) {
        lines[i] = matrix + i * size;
        turned[i] = vectors + i * size;
        for (size_t j = 0; j < size; j++) turned[i][j] = i == j;
    }
    while (rounds--) {
        for (size_t j = 0; j < half; j++) {
            const double pp = lines[j][j], qq = lines[half + j][half + j], pq = lines[j][half + j];
            const double tau = (qq - pp) / (2 * pq);
            double tangent = 1 / (fabs(tau) + sqrt(1 + tau * tau));
            tangent = pq == 0 ? 0 : tau < 0 ? -tangent : tangent;
            cosine[j] = 1 / sqrt(1 + tangent * tangent);
            sine[j] = tangent * cosine[j];
        }
        for (size_t j = 0; j < half; j++) {
            turn_two(lines[j], lines[half + j], size, cosine[j], sine[j]);
            turn_two(turned[j], turned[half + j], size, cosine[j], sine[j]);
        }
        for (size_t i = 0; i < size; i++) {
            double one[DIRECTIONS / 2], other[DIRECTIONS / 2], *line = lines[i];
            for (size_t j = 0; j < half; j++) {
                one[j] = cosine[j] * line[j] - sine[j] * line[half + j];
                other[j] = sine[j] * line[j] + cosine[j] * line[half + j];
            }
            line[0] = one[0];
            line[1] = other[0];
            for (size_t j = 2; j < half; j++) line[j] = one[j - 1];
            for (size_t j = 1; j < half; j++) line[half + j - 1] = other[j];
            line[size - 1] = one[half - 1];
        }
        go_around(lines, half);
        go_around(turned, half);
    }
    double found[DIRECTIONS * DIRECTIONS];
    for (size_t i = 0; i < size; i++) {
        values[i] = lines[i][i];
        memcpy(found + i * size, turned[i], size * sizeof *found);
    }
    memcpy(vectors, found, size * size * sizeof *found);
}

#define ADD_PRODUCT(NAME, WORD, VALUE, OF_VALUE, LEVEL, TOP)                                                           \
    static inline WORD NAME(WORD word, int32_t product, float s) {                                                     \
        const WORD found = OF_VALUE((float)VALUE(word) + s * (float)product);                                          \
        return SPECIAL(LEVEL(found), TOP) ? word : found;                                                              \
    }

#define ADD_PRODUCTS(NAME, ADD, WORD)                                                                                  \
    static void NAME(const void *base, const int32_t *products, size_t n, float s, void *words) {                      \
        const WORD *some = base;                                                                                       \
        WORD *out = words;                                                                                             \
        for (size_t i = 0; i < n; i++) out[i] = ADD(some[i], products[i], s);                                          \
    }

ADD_PRODUCT(add_to_plain, uint32_t, plain_value, plain_of_value, LEVEL_F32, 255u)
ADD_PRODUCT(add_to_brain, uint16_t, brain_value, brain_of_value, LEVEL_BF16, 255u)
ADD_PRODUCT(add_to_half, uint16_t, number_of_half, half_of_number, LEVEL_F16, 31u)
ADD_PRODUCTS(add_products_f32, add_to_plain, uint32_t)
ADD_PRODUCTS(add_products_f16, add_to_half, uint16_t)
#ifndef CHANGE_VECTORS
ADD_PRODUCTS(add_products_bf16, add_to_brain, uint16_t)
#endif

static inline uint64_t bits_of_double(double number) {
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

/* Nearest integer, ties to even, of what is below 2^51: adding this leaves no bit below 1. */
#define TO_INTEGERS 0x1.8p52

static void expect(const double *base, size_t n, double factor, double inverse, double *points, uint8_t *kinds) {
    for (size_t i = 0; i < n; i++) {
        double place = base[i] * factor * inverse;
        place = fabs(place) < 0x1p22 ? place : 0.0;
        const double point = (place + TO_INTEGERS) - TO_INTEGERS, off = place - point;
        const int distance = (int)(fabs(off) * 256);
        points[i] = point;
        kinds[i] = (uint8_t)((distance < 127 ? distance : 127) | (off < 0 ? LOWER_SIDE : 0));
    }
    for (size_t i = 0; i < n; i++) { /* bytes, many at once */
        const uint8_t side = kinds[i] & LOWER_SIDE, distance = kinds[i] ^ side;
        uint8_t class = (uint8_t)((distance >= 32) + (distance >= 64) + (distance >= 96) + (distance >= 112));
        class = (uint8_t)(class + (distance >= 120) + (distance >= 124) + (distance >= 126));
        kinds[i] = class | side;
    }
}

static void count_steps(double *target, double *base, size_t n, double inverse) {
    for (size_t i = 0; i < n; i++) {
        const double one = target[i] * inverse, other = base[i] * inverse;
        const int usable = (fabs(one) < 0x1p22) & (fabs(other) < 0x1p22);
        target[i] = usable ? one : 0.0;
        base[i] = usable ? other : 0.0;
    }
}

/* Sums have eight lanes, as in the numpy form; they are added up in order. */
static double dot(const double *one, const double *other, size_t n) {
    double lane[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (size_t j = 0; j < 8; j++) lane[j] += one[i + j] * other[i + j];
    }
    for (size_t j = 0; i + j < n; j++) lane[j] += one[i + j] * other[i + j];
    double sum = lane[0];
    for (int j = 1; j < 8; j++) sum += lane[j];
    return sum;
}

static double sum_misses(const double *target, const double *base, size_t n, double factor) {
    double missed[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (size_t j = 0; j < 8; j++) {
            const double integer = (base[i + j] * factor + TO_INTEGERS) - TO_INTEGERS;
            missed[j] += fabs(integer - target[i + j]);
        }
    }
    for (size_t j = 0; i + j < n; j++) {
        const double integer = (base[i + j] * factor + TO_INTEGERS) - TO_INTEGERS;
        missed[j] += fabs(integer - target[i + j]);
    }
    double sum = missed[0];
    for (int j = 1; j < 8; j++) sum += missed[j];
    return sum;
}

static void round_numbers(const double *numbers, size_t n, double inverse, double step, double *rounded) {
    for (size_t i = 0; i < n; i++) {
        const double multiple = numbers[i] * inverse, integer = (multiple + TO_INTEGERS) - TO_INTEGERS;
        rounded[i] = ((fabs(multiple) < 0x1p51 ? integer : multiple) + 0.0) * step; /* others are integers already */
    }
}

static size_t hold_limit(const double *before, const double *after, size_t n, double limit, uint8_t *good, double *most,
                         double *most_share) {
    /* Of numbers that are not negative the bits are in the order of the numbers. */
    uint64_t largest = bits_of_double(*most), largest_share = bits_of_double(*most_share), count = 0;
    for (size_t i = 0; i < n; i++) {
        const double magnitude = fabs(before[i]), off = fabs(after[i] - before[i]);
        const int holds = (magnitude < INFINITY) & (fabs(after[i]) < INFINITY) & (magnitude > 0) & (off <= limit);
        const double error = holds ? off : 0.0, share = holds ? off / magnitude : 0.0;
        const uint64_t bits = bits_of_double(error), bits_of_share = bits_of_double(share);
        largest = bits > largest ? bits : largest;
        largest_share = bits_of_share > largest_share ? bits_of_share : largest_share;
        good[i] = (uint8_t)holds;
        count += (uint64_t)holds;
    }
    memcpy(most, &largest, sizeof largest);
    memcpy(most_share, &largest_share, sizeof largest_share);
    return (size_t)count;
}

static int kinds_of_widths(const uint8_t *restrict widths, const uint8_t *restrict kinds, size_t n,
                           uint8_t *restrict tables, uint8_t *restrict low) {
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) {
        const uint8_t width = widths[i], is_wide = (uint8_t)-(width >= 24); /* all bits: no branch, many at once */
        const uint8_t shift = (uint8_t)(width - 22) >> 1 & is_wide, scale = (uint8_t)(width - shift - shift);
        const uint8_t class = (kinds[i] & CLASS_BITS & ~is_wide) | (8 & is_wide);
        low[i] = shift;
        tables[i] = (uint8_t)((uint8_t)(scale << 3) + (uint8_t)(scale << 1) + class);
        any |= shift;
    }
    return any;
}

static int count(const double *numbers, size_t n, double inverse, const double *points, const uint8_t *kinds,
                 int32_t *residuals, uint8_t *marks) {
    int any = 0;
    for (size_t i = 0; i < n; i++) {
        const double multiple = numbers[i] * inverse, integer = (multiple + TO_INTEGERS) - TO_INTEGERS;
        const double above = integer - points[i], residual = kinds[i] & LOWER_SIDE ? -above : above;
        const int on = (fabs(multiple) < 0x1p22) & (integer == multiple) & (fabs(residual) < 0x1p22) &
                       (bits_of_double(numbers[i]) != (uint64_t)1 << 63);
        residuals[i] = (int32_t)(on ? residual : 0.0);
        marks[i] = (uint8_t)!on;
        any |= !on;
    }
    return any;
}

static void recount(double *points, const uint8_t *kinds, const int32_t *residuals, size_t n, double step) {
    for (size_t i = 0; i < n; i++) {
        const int32_t residual = kinds[i] & LOWER_SIDE ? -residuals[i] : residuals[i];
        points[i] = (points[i] + (double)residual) * step;
    }
}

static void cost_places(const int32_t *residuals, const uint8_t *kinds, size_t n, uint16_t *places) {
    int any = 0;
    for (size_t i = 0; i < n; i++) {
        const int class = kinds[i] & CLASS_BITS, row = class < COST_CLASSES - 1 ? class : COST_CLASSES - 1;
        const uint32_t column = (uint32_t)residuals[i] + COST_TOKENS / 2;
        any |= column >= COST_TOKENS;
        places[i] = (uint16_t)((uint32_t)(row * COST_TOKENS) + column);
    }
    for (size_t i = 0; any && i < n; i++) {
        const uint32_t magnitude = (uint32_t)(residuals[i] < 0 ? -residuals[i] : residuals[i]);
        if (magnitude <= COST_TOKENS / 2) continue;
        const int octave = floor_log2(magnitude);
        places[i] = (uint16_t)(COST_CLASSES * COST_TOKENS + 2 * (octave - 4) + (int)((magnitude << 1 >> octave) & 1));
    }
}

/* Sixteen at once, said so: a loop over as many is unrolled to single sums. */
typedef uint32_t Sixteen __attribute__((vector_size(64), aligned(4), may_alias));

__attribute__((always_inline)) static inline void add_costs(const uint32_t (*cost)[COST_STRIDE], const uint16_t *places,
                                                            size_t n, const int sixteens, int64_t *sums) {
    Sixteen some[(MOST_WIDTH + 1) / 16] = {0};
    for (size_t i = 0; i < n; i++) {
        const Sixteen *from = (const Sixteen *)(cost[places[i]] + COST_BEFORE);
        for (int j = 0; j < sixteens; j++) some[j] += from[j];
    }
    const uint32_t *found = (const uint32_t *)some;
    for (int width = 0; width < 16 * sixteens; width++) sums[width] = found[width];
}

static void sum_costs(const uint32_t (*cost)[COST_STRIDE], const uint16_t *places, size_t n, int widest, int64_t *sums) {
    enum { FEW = 256 }; /* words that take less one by one than there are rows to look at */
    if (n < FEW) {
        if (widest < 16) {
            add_costs(cost, places, n, 1, sums);
        } else if (widest < 32) {
            add_costs(cost, places, n, 2, sums);
        } else {
            add_costs(cost, places, n, (MOST_WIDTH + 1) / 16, sums);
        }
        return;
    }
    uint32_t counts[2][COST_ROWS + 3]; /* two sets of counters: neighbours often hit the same one */
    memset(counts, 0, sizeof counts);
    memset(sums, 0, (MOST_WIDTH + 1) * sizeof *sums);
    for (size_t i = 0; i + 1 < n; i += 2) {
        counts[0][places[i]]++;
        counts[1][places[i + 1]]++;
    }
    if (n & 1) counts[0][places[n - 1]]++;
    for (int row = 0; row < COST_ROWS; row++) {
        const uint64_t times = (uint64_t)counts[0][row] + counts[1][row];
        if (!times) continue;
        const uint32_t *some = cost[row] + COST_BEFORE;
        for (int width = 0; width <= widest; width++) sums[width] += (int64_t)(times * some[width]);
    }
}

static void sum_columns(const uint32_t (*cost)[COST_STRIDE], const uint16_t *places, size_t n, int width, size_t at,
                        size_t column, uint32_t *sums) {
    Sixteen *to = (Sixteen *)(sums + at / column * 16);
    size_t left = column - at % column;
    for (size_t i = 0; i < n; to++, left = column) {
        const size_t end = n - i < left ? n : i + left;
        Sixteen more = {0};
        /* The least correction takes as much off as stands before. */
        for (; i < end; i++) more += *(const Sixteen *)(cost[places[i]] + width);
        *to += more;
    }
}

static void sum_corrected(const uint32_t (*cost)[COST_STRIDE], const uint16_t *places, const int8_t *corrections, size_t n,
                          int widest, int64_t *sums) {
    enum { WORDS = 4096 }; /* of which all costs fit into 32 bits */
    for (size_t start = 0; start < n; start += WORDS) {
        const size_t end = n - start < WORDS ? n : start + WORDS;
        uint32_t some[MOST_WIDTH + 1];
        for (int first = 0; first <= widest; first += 16) {
            Sixteen more = {0};
            for (size_t i = start; i < end; i++) {
                more += *(const Sixteen *)(cost[places[i]] + COST_BEFORE + corrections[i] + first);
            }
            *(Sixteen *)(some + first) = more;
        }
        for (int width = 1; width <= widest; width++) sums[width] += some[width];
    }
}

/* A way for each spread, side by side. */
typedef int64_t Ways __attribute__((vector_size(8 * SPREADS)));
typedef uint8_t Places __attribute__((vector_size(SPREADS)));

static inline Ways lesser(Ways one, Ways other) {
#ifdef __AVX512VL__
    return (Ways)_mm256_min_epi64((__m256i)one, (__m256i)other);
#else
    const Ways is_less = one < other;
    return (one & is_less) | (other & ~is_less);
#endif
}

/* The width that takes least, the narrowest of those that do: it is in the lowest bits of what is compared. */
static int cheapest_width(const int64_t *costs, int most) {
    int64_t least = INT64_MAX;
    for (int width = 1; width <= most; width++) {
        const int64_t some = costs[width] << 6 | width;
        least = some < least ? some : least;
    }
    return (int)(least & 63);
}

static int64_t find_path(const int64_t (*price)[3], const int64_t *costs, size_t count, size_t stride, int most, int least,
                         int before, uint8_t *found, uint8_t *came) {
    enum { WIDEST = 64, PLACE_BITS = 6, PLACES = 1 << PLACE_BITS }; /* where a way came from is in its lowest bits */
    Ways total[WIDEST], way[WIDEST], same, other, more;
    const Ways furthest = (Ways){0} + INT64_MAX;
    for (int j = 0; j < SPREADS; j++) {
        same[j] = price[j][0];
        other[j] = price[j][1];
        more[j] = price[j][2];
    }
    for (int i = least; i <= most; i++) {
        const int64_t distance = i > before ? i - before : before - i;
        total[i] = (distance ? other + more * distance : same) + costs[i];
    }
    for (size_t at = 1; at < count; at++) {
        const int64_t *some = costs + at * stride;
        uint8_t *from = came + at * SPREADS * WIDEST;
        Ways near = furthest, climb = more * least;
        for (int i = least; i <= most; i++) {
            near = lesser((total[i] - climb) * PLACES + i, near);
            way[i] = near + climb * PLACES;
            climb += more;
        }
        near = furthest;
        climb = more * most;
        for (int i = most; i >= least; i--) {
            near = lesser((total[i] + climb) * PLACES + i, near);
            const Ways below = way[i], above = near - climb * PLACES;
            const Ways best = lesser((total[i] + same) * PLACES + i, lesser(above, below) + other * PLACES);
            climb -= more;
            const Places places = __builtin_convertvector(best & (PLACES - 1), Places);
            memcpy(from + i * SPREADS, &places, sizeof places);
            total[i] = (best >> PLACE_BITS) + some[i];
        }
    }
    int spread = 0, last = least;
    int64_t lowest = INT64_MAX;
    for (int j = 0; j < SPREADS; j++) {
        for (int i = least; i <= most; i++) {
            if (total[i][j] < lowest) {
                lowest = total[i][j];
                spread = j;
                last = i;
            }
        }
    }
    for (size_t at = count; at-- > 0;) {
        found[at] = (uint8_t)last;
        if (at) last = came[at * SPREADS * WIDEST + (size_t)(last * SPREADS + spread)];
    }
    return lowest;
}

#define LOOPS                                                                                                          \
    .predict = {predict_f32, predict_bf16, predict_f16}, .middle_ratio = middle_ratio, .count_steps = count_steps,     \
    .dot = dot, .count_strides = count_strides, .expect_strides = expect_strides, .narrow = narrow, .widen = widen,    \
    .find_changes = {find_changes_f32, find_changes_bf16, find_changes_f16},                                           \
    .round_changes = {round_changes_f32, round_changes_bf16, round_changes_f16}, .round_singles = round_singles,       \
    .multiply_pairs = multiply_pairs, .pair_rows = pair_rows, .turn_pairs = turn_pairs, .add_row = add_row,            \
    .dot_shorts = dot_shorts, .find_most = find_most, .make_short = make_short, .combine = combine,                    \
    .rotate = rotate, .add_products = {add_products_f32, add_products_bf16, add_products_f16},                         \
    .sum_misses = sum_misses, .residual32 = residual32, .residual16 = residual16, .restore32 = restore32,              \
    .restore16 = restore16, .contexts32 = contexts32, .contexts16 = contexts16, .assign = assign, .sum = sum,          \
    .levels32 = levels32, .levels16 = levels16, .scale_blocks = scale_blocks, .count_tokens = count_tokens,            \
    .token_bits = token_bits, .count_nonzero = count_nonzero, .residual_lengths = residual_lengths,                    \
    .level_lengths = level_lengths, .set_slots = set_slots, .split32 = split32, .split16 = split16, .join32 = join32,  \
    .join16 = join16, .any32 = any32, .any16 = any16,                                                                  \
    .load = {load_f32, load_bf16, load_f16}, .store = {store_f32, store_bf16, store_f16}, .expect = expect,            \
    .round_numbers = round_numbers, .hold_limit = hold_limit, .kinds_of_widths = kinds_of_widths, .count = count,      \
    .recount = recount, .cost_places = cost_places, .sum_costs = sum_costs, .sum_columns = sum_columns,                \
    .sum_corrected = sum_corrected, .cheapest_width = cheapest_width, .find_path = find_path

#endif
