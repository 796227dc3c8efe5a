/* The inner loops, once for every level of instructions that the machine may have. All give the same results. */

#ifndef MODELVAULT_KERNELS_H
#define MODELVAULT_KERNELS_H

#include "numbers.h"

enum { SLOTS_ROOM = 128 };
enum { MOST_CHANGE = 127, TURNED = 16, PAIR_LINES = 8, PAIR_COLUMNS = 32, DIRECTIONS = 16 };
enum { UNPACKED_AHEAD = 64 };

/* What the entropy encoder needs to know of a symbol: x / frequency is x * reciprocal >> (32 + shift), or one more than that
   if the frequency is 1, which 32 bits cannot divide by so: what that takes to the state is in its start. */
typedef struct {
    uint32_t reciprocal;
    uint32_t rest; /* start of its slots (bits 0-11), shift (12-15), frequency (16-27) */
} Division;

/* For the `count` symbols from `low` on, of these frequencies. */
static inline void divisions_set(Division *divisions, const uint16_t *frequency, int low, int count) {
    uint32_t start = 0;
    for (int i = low; i < low + count; i++) {
        if (!frequency[i]) continue;
        const bool is_one = frequency[i] == 1;
        const uint32_t shift = is_one ? 0 : (uint32_t)floor_log2(frequency[i] - 1u);
        const uint64_t reciprocal = (((uint64_t)1 << (32 + shift)) + frequency[i] - 1) / frequency[i];
        divisions[i].reciprocal = (uint32_t)(is_one ? reciprocal - 1 : reciprocal);
        divisions[i].rest = (start + (is_one ? FREQUENCIES - 1 : 0)) | shift << 12 | (uint32_t)frequency[i] << 16;
        start += frequency[i];
    }
}

/* The cut of n words into blocks. */
typedef struct {
    size_t n, length, first, count;
} Blocks;

static inline size_t block_start(const Blocks *blocks, size_t index) {
    return index ? blocks->first + (index - 1) * blocks->length : 0;
}

static inline size_t block_length(const Blocks *blocks, size_t index) {
    size_t start = block_start(blocks, index), end = block_start(blocks, index + 1);
    return (end < blocks->n ? end : blocks->n) - start;
}

/* Costs of integers in 1024ths of a bit: a row for each class and token, and for each bucket of integers beyond; behind
   the first COST_BEFORE, a column for each width, and past the ends what the last one has. */
enum { COST_CLASSES = 9, COST_TOKENS = 33, COST_ROWS = COST_CLASSES * COST_TOKENS + 36 };
enum { COST_BEFORE = 8, COST_STRIDE = 80, MOST_WIDTH = 63, SPREADS = 4 };

/* Behind the class of an integer: it counts to the lower side. */
enum { LOWER_SIDE = 0x80, CLASS_BITS = 0x0F };

/* From one to another. */
typedef struct {
    int least, most;
} Contexts;

typedef struct {
    const char *name;

    /* Predict n words from references[0], in place or not, and others where there are terms of them. */
    void (*predict[3])(const Predictor *predictor, const void *const *references, size_t n, void *predictions);

    /* Numbers in steps, given what is one by the length of one; pairs of which one is beyond all integers become 0. */
    void (*count_steps)(double *target, double *base, size_t n, double inverse);

    /* What is between numbers and the integers nearest to `factor` times others, in all. */
    double (*sum_misses)(const double *target, const double *base, size_t n, double factor);

    /* The sum of products, in eight lanes that are added up in order. */
    double (*dot)(const double *one, const double *other, size_t n);

    /* By how many strides of `s` words moved from `a` times others, and half a stride if `odd` is 1; zigzag coded, and 0
       where `width` bits, at most 8, do not tell, or it is no number. And what is expected of words that moved so. */
    void (*count_strides)(const uint32_t *words, const uint32_t *reference, size_t n, double a, double s, int odd,
                          int width, uint8_t *tokens);
    void (*expect_strides)(const uint32_t *reference, const uint8_t *tokens, size_t n, double a, double s, int odd,
                           uint32_t *predictions);

    /* The lowest `width` bits of bytes, 1 to 8, as a stream of bits, and bytes of such a stream. Eight bytes are written
       at a time: there must be room for 8 more. */
    void (*narrow)(const uint8_t *bytes, size_t n, int width, uint8_t *bits);
    void (*widen)(const uint8_t *bits, size_t n, int width, uint8_t *bytes);

    /* What words are more than others, in binary32; 0 where that is no number. And the same, or numbers, in units of which
       one has `inverse`, to the nearest integer, between -MOST_CHANGE and MOST_CHANGE. */
    void (*find_changes[3])(const void *words, const void *others, size_t n, float *changes);
    void (*round_changes[3])(const void *words, const void *others, size_t n, float inverse, int16_t *rounded);
    void (*round_singles)(const float *numbers, size_t n, float inverse, int16_t *rounded);

    /* Products of matrices, whose columns and whose rows are long: out[i][x] is the sum of products of pairs of 16 bits,
       of left[p][i] and right[p][x], as 32 bits hold it. `lines` is a multiple of PAIR_LINES and n of PAIR_COLUMNS, and
       what is between rows of each, in elements, is given. */
    void (*multiply_pairs)(const int32_t *left, size_t left_stride, const int32_t *right, size_t right_stride,
                           size_t pairs, size_t lines, size_t n, int32_t *out, size_t out_stride);

    /* Two rows of 16 bits as pairs; and rows of pairs turned into columns, multiples of TURNED of both. */
    void (*pair_rows)(const int16_t *one, const int16_t *other, size_t n, int32_t *pairs);
    void (*turn_pairs)(const int32_t *pairs, size_t rows, size_t columns, int32_t *turned);

    void (*add_row)(int32_t *sums, const int16_t *row, size_t n, int32_t sign);

    /* The sum of products of 22 bits at most; the most that an integer has without its sign; and integers of fewer bits. */
    int64_t (*dot_shorts)(const int16_t *one, const int16_t *other, size_t n);
    uint32_t (*find_most)(const int32_t *values, size_t n);
    void (*make_short)(const int32_t *values, size_t n, int shift, int16_t *shorts);

    /* Sums of rows of integers, each so many times, in their order and in binary32, rounded to integers between -most and
       most: PAIR_LINES sums at once, of factors by[row][sum]. n is a multiple of PAIR_COLUMNS, and what is between rows. */
    void (*combine)(const int16_t *rows, size_t size, const float *by, size_t n, float most, int16_t *sums);

    /* Eigenvalues of a symmetric matrix, which is overwritten, and vectors, one a row, nearly: so many rounds of rotations
       of pairs. */
    void (*rotate)(double *matrix, double *vectors, size_t rounds, double *values);

    /* Words nearest to those of a prediction and `s` times products, in binary32; the prediction's where that is special. */
    void (*add_products[3])(const void *base, const int32_t *products, size_t n, float s, void *words);

    /* Of the ratios of up to MOST_RATIOS numbers, in binary32, the middle one; of two the larger. */
    float (*middle_ratio)(const double *target, const double *base, size_t n);

    /* Residuals of words, without their lowest `shift` bits, and their tokens. */
    void (*residual32)(const uint32_t *words, const uint32_t *predictions, size_t n, int shift, uint32_t *residuals,
                       uint8_t *tokens);
    void (*residual16)(const uint16_t *words, const uint16_t *predictions, size_t n, int shift, uint16_t *residuals,
                       uint8_t *tokens);

    /* Turn predictions into words, in place: from the tokens of residuals and the bits behind them. */
    void (*restore32)(uint32_t *predictions, const uint8_t *tokens, const uint32_t *rests, size_t n, int shift);
    void (*restore16)(uint16_t *predictions, const uint8_t *tokens, const uint16_t *rests, size_t n, int shift);

    /* Contexts of words with predictions: clamp(at - 2 * level, 0, 63). */
    void (*contexts32)(const uint32_t *predictions, size_t n, int at, uint8_t *contexts);
    void (*contexts16)(const uint16_t *predictions, size_t n, int mantissa, uint32_t level_mask, int at,
                       uint8_t *contexts);

    /* Contexts to the tables they belong to, in place. */
    void (*assign)(uint8_t *contexts, size_t n, const uint8_t *bounds, int tables);

    uint32_t (*sum)(const uint8_t *tokens, size_t n);

    void (*levels32)(const uint32_t *words, size_t n, uint8_t *levels);
    void (*levels16)(const uint16_t *words, size_t n, int mantissa, uint32_t level_mask, uint8_t *levels);

    /* Find the scales of a chunk's blocks and the contexts of their words, given the levels of the predictions, in place
       of which the contexts come. Blocks without residuals are blank: levels, tokens and values of the others move
       together. Returns how many words these have. */
    size_t (*scale_blocks)(const Blocks *blocks, uint8_t *levels, uint8_t *tokens, void *values, int word_bytes,
                           uint16_t *scales);

    /* counts[context << stride_log | token], of the contexts from the least to the most that there are, which are told. */
    Contexts (*count_tokens)(const uint8_t *contexts, const uint8_t *tokens, size_t n, int stride_log, uint32_t *counts);

    /* In 1/256 bits: what tokens take that occur as often as two counts say together, of `total` in a table of theirs. */
    uint64_t (*token_bits)(const uint32_t *one, const uint32_t *other, size_t n, uint32_t total);

    uint32_t (*count_nonzero)(const uint8_t *tokens, size_t n);

    /* How many raw bits follow each token: of a residual, or of a level (`rest` bits, but `zero` behind level 0). */
    void (*residual_lengths)(const uint8_t *tokens, size_t n, uint8_t *lengths);
    void (*level_lengths)(const uint8_t *tokens, size_t n, int rest, int zero, uint8_t *lengths);

    /* Append the lowest lengths[i] bits of each value to a stream of bits. Up to 15 bytes behind it are written. Returns
       how many bits it holds. */
    size_t (*pack32)(const uint32_t *values, const uint8_t *lengths, size_t n, uint8_t *stream);
    size_t (*pack16)(const uint16_t *values, const uint8_t *lengths, size_t n, uint8_t *stream);

    /* The other way, from bit `bit` on; up to UNPACKED_AHEAD bytes are read from where it stops. At most 14 bits each in
       unpack16, 31 in unpack32. Returns where it stopped. */
    size_t (*unpack32)(uint32_t *values, const uint8_t *lengths, size_t n, const uint8_t *stream, size_t bit);
    size_t (*unpack16)(uint16_t *values, const uint8_t *lengths, size_t n, const uint8_t *stream, size_t bit);

    /* For keyframes: levels, and what stands beside them (sign and mantissa without its lowest `shift` bits); returns
       the OR of the words with level 0. */
    uint32_t (*split32)(const uint32_t *words, size_t n, int shift, uint8_t *levels, uint32_t *rests);
    uint32_t (*split16)(const uint16_t *words, size_t n, int mantissa, uint32_t level_mask, int shift, uint8_t *levels,
                        uint16_t *rests);
    void (*join32)(uint32_t *words, const uint8_t *levels, const uint32_t *rests, size_t n, int shift);
    void (*join16)(uint16_t *words, const uint8_t *levels, const uint16_t *rests, size_t n, int mantissa, int shift);

    /* The OR of words. */
    uint32_t (*any32)(const uint32_t *words, size_t n);
    uint32_t (*any16)(const uint16_t *words, size_t n);

    /* Encode n tokens with `lanes` states, which begin at STATE_LOW and are left in `states`. Words of the stream are
       written backwards from `end`, and up to 8 before them; returns where they begin. */
    uint16_t *(*encode)(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions, int stride,
                        uint32_t *states, int lanes, uint16_t *end);

    /* Fill the slots of one table, of which `count` symbols from `low` on have these frequencies, FREQUENCIES together: a
       symbol's slots are symbol << 23 | frequency << 11 | place among them. Up to SLOTS_ROOM bytes behind are written. */
    void (*set_slots)(uint32_t *slots, const uint16_t *frequency, int low, int count);

    /* Decode n tokens. slots[table][x & 2047] is what `set_slots` made. At least 64 bytes behind `end` must be readable.
       Returns where the stream was left, or NULL if it ended too early. */
    const uint8_t *(*decode)(uint8_t *tokens, const uint8_t *tables, size_t n, const uint32_t *slots, uint32_t *states,
                             int lanes, const uint8_t *at, const uint8_t *end);

    /* As `crc_plain`. */
    uint32_t (*crc)(uint32_t sum, const uint8_t *bytes, size_t n);

    /* Words as numbers, exactly, and numbers as the words nearest to them. */
    void (*load[3])(const void *words, size_t n, double *numbers);
    void (*store[3])(const double *numbers, size_t n, void *words);

    /* Numbers to the nearest multiples of a step, ties to even; 0 is positive. */
    void (*round_numbers)(const double *numbers, size_t n, double inverse, double step, double *rounded);

    /* Which numbers other than 0 became finite ones within the limit, and how many these are. `most` and `most_share` grow
       to the largest differences of these, and of their shares of the magnitude. */
    size_t (*hold_limit)(const double *before, const double *after, size_t n, double limit, uint8_t *good, double *most,
                         double *most_share);

    /* Where base * factor falls among multiples of 1 / inverse: the nearest, and the class with the side. */
    void (*expect)(const double *base, size_t n, double factor, double inverse, double *points, uint8_t *kinds);

    /* What is left to count of numbers that are multiples of 1 / inverse; those that are none are marked, and left 0.
       Returns whether there are such. */
    int (*count)(const double *numbers, size_t n, double inverse, const double *points, const uint8_t *kinds,
                 int32_t *residuals, uint8_t *marks);

    /* Turn points into numbers, in place. */
    void (*recount)(double *points, const uint8_t *kinds, const int32_t *residuals, size_t n, double step);

    /* The distribution of each integer of such a width and kind, and its low bits; returns whether any has some. */
    int (*kinds_of_widths)(const uint8_t *widths, const uint8_t *kinds, size_t n, uint8_t *tables, uint8_t *low);

    /* Which row of costs each residual has. */
    void (*cost_places)(const int32_t *residuals, const uint8_t *kinds, size_t n, uint16_t *places);

    /* What words take together with each width up to one, and perhaps with more. */
    void (*sum_costs)(const uint32_t (*cost)[COST_STRIDE], const uint16_t *places, size_t n, int widest, int64_t *sums);

    /* Add to what each of 16 corrections of `width` takes, for each column; the words are of one row, from `at` on.
       A cost is below 2^17, so of 2^15 words of a column the sums are below 2^32. */
    void (*sum_columns)(const uint32_t (*cost)[COST_STRIDE], const uint16_t *places, size_t n, int width, size_t at,
                        size_t column, uint32_t *sums);

    /* Add what words take together with each width up to one, each word's corrected. */
    void (*sum_corrected)(const uint32_t (*cost)[COST_STRIDE], const uint16_t *places, const int8_t *corrections, size_t n,
                          int widest, int64_t *sums);

    /* Of what the widths from 1 to `most` take, the one that takes least. */
    int (*cheapest_width)(const int64_t *costs, int most);

    /* Widths, or corrections, from `least` to `most`, that take least with what it takes to tell them from each other and
       the first from `before`, in the best of the spreads: a price of no difference, of any, and of each step of it.
       `costs` has a row of `stride` for each run; `came` has 64 * SPREADS bytes for each. Returns what they take. */
    int64_t (*find_path)(const int64_t (*price)[3], const int64_t *costs, size_t count, size_t stride, int most, int least,
                         int before, uint8_t *found, uint8_t *came);
} Kernels;

extern const Kernels kernels_plain;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512;
void kernels_avx2_prepare(void); /* once, before they are used */
#endif

/* The best that this machine has. */
const Kernels *kernels_best(void);

#endif
