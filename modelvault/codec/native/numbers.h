/* The numbers that the kernels work on: words of the three float formats, their levels, places and tokens.

   Everything here is integer arithmetic on bits; docs/format/codecs.md says what each step means. */

#ifndef MODELVAULT_NUMBERS_H
#define MODELVAULT_NUMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { CONTEXTS = 64, MAX_TABLES = 16, MAX_ALPHABET = 256, FREQUENCY_BITS = 11, FREQUENCIES = 1 << FREQUENCY_BITS };
enum { MAX_REFERENCES = 8, MAX_TERMS = 4 };
enum { MAX_PREDICTORS = 4, MAX_RUNS = 8, MAX_REPEATS = 512, MAX_LANES = 32 };
enum { MOST_EXPONENT = 200 }; /* of a step */
enum { MOST_RATIOS = 512 }; /* that the middle is found of */

/* States of the entropy coder stay in [STATE_LOW, 2^16 * STATE_LOW). */
#define STATE_LOW ((uint32_t)1 << 15)

typedef enum { FORMAT_F32, FORMAT_BF16, FORMAT_F16 } Format;

typedef struct {
    int word_bytes;
    int mantissa;        /* bits of the mantissa */
    uint32_t level_mask; /* the exponent field, shifted down */
} Layout;

static const Layout LAYOUTS[] = {
    [FORMAT_F32] = {4, 23, 0xFF},
    [FORMAT_BF16] = {2, 7, 0xFF},
    [FORMAT_F16] = {2, 10, 0x1F},
};

typedef enum { PREVIOUS, SCALED, DECAYED, COMBINED } Kind;

typedef struct {
    double factor;
    uint32_t repeats;
} Run;

typedef enum { WORD_TERM, SQUARE_TERM, STEP_TERM } TermKind;

/* What is added to the base: of the word of a reference; of a step, the word of the reference behind it too. */
typedef struct {
    TermKind kind;
    int reference;
    double factor, epsilon;
} Term;

/* One predictor of a tensor, as its parameters name it. */
typedef struct {
    Kind kind;
    int runs, terms;
    double a;
    Run run[MAX_RUNS];
    Term term[MAX_TERMS];
} Predictor;

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint32_t word_at(Format format, const void *words, size_t at) {
    return format == FORMAT_F32 ? ((const uint32_t *)words)[at] : ((const uint16_t *)words)[at];
}

static inline int floor_log2(uint32_t value) { return 31 - __builtin_clz(value); }

#endif
