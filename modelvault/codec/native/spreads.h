/* Integers around predictions: their distributions by formula, and how wide these are for each run and column of words.
   docs/format/codecs.md specifies both. */

#ifndef MODELVAULT_SPREADS_H
#define MODELVAULT_SPREADS_H

#include "bits.h"
#include "kernels.h"

enum { EXACT_CLASS = 9, WIDTH_KINDS = 24 * 10, INTEGER_TOKENS = 34, ESCAPE_TOKEN = 33, REACH = 16, ESCAPE_ORDER = 4 };
enum { FIRST_WIDTH = 12, LEAST_CORRECTION = -8, CORRECTIONS = 16, INTEGER_LIMIT = 1 << 22 };

/* What is the same for all chunks. */
typedef struct {
    uint16_t frequency[WIDTH_KINDS][64];
    Division division[WIDTH_KINDS][64];
    uint32_t cost[COST_ROWS][COST_STRIDE]; /* behind COST_BEFORE: for each width, in 1024ths of a bit */
    uint8_t enough[COST_ROWS];             /* the width from which on costs never fall */
    int64_t price[SPREADS][3];             /* of no difference, of any, and of each step of it */
    uint32_t slots[WIDTH_KINDS * FREQUENCIES + SLOTS_ROOM];
} IntegerTables;

/* Returns NULL if there is no memory. */
const IntegerTables *integer_tables_make(const Kernels *kernels);

extern const uint8_t SPREAD_WIDTHS[SPREADS];

/* A piece's words, and how they lie in rows. */
typedef struct {
    size_t words, row, start;
} Rows;

/* Which width each word of a piece has. Without corrections, `row` is 0. */
typedef struct {
    size_t words, length, first, count; /* runs of words, and how many widths they have */
    size_t row, column, at, columns;
    uint8_t *widths;
    int8_t *corrections;
} WidthLayout;

static inline int low_bits(int width) { return width < 24 ? 0 : (width - 22) >> 1; }

/* The number of a distribution. */
static inline int kind_of_width(int width, int class) {
    const int low = low_bits(width);
    return (width - 2 * low) * 10 + (low ? 8 : class);
}

/* Bytes of scratch memory that `find_layout` needs for the longest of the pieces. */
size_t layout_scratch(const Rows *run);

/* How many widths and how many corrections a piece may have. */
size_t most_widths(const Rows *run);

/* Find the layout that takes least for words with these rows of costs; returns how much. Room for its widths and
   corrections must be there. */
int64_t find_layout(const Kernels *kernels, const IntegerTables *tables, const uint16_t *places, const Rows *run,
                    int before, WidthLayout *layout, void *scratch);

#endif
