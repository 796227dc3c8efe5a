#include "spreads.h"

#include <stdlib.h>

#include "arena.h"

enum { ROWS_TOGETHER = 4, SHORTEST_RUN = 32, RUN_WITHOUT_ROWS = 64, LEAST_ROWS = 8, RUN_BITS = 16 };
enum { MOST_SUMMED = 1 << 14 }; /* and one row more: no column has 2^15 of them */

static const int64_t BIT = 1024;

const uint8_t SPREAD_WIDTHS[SPREADS] = {23, 20, 17, 14};

/* 65536 * 2^(-i / 32), rounded. */
static const uint16_t POWER[32] = {
    0,     64132, 62757, 61413, 60097, 58809, 57549, 56316, 55109, 53928, 52773, 51642, 50535, 49452, 48393, 47356,
    46341, 45348, 44376, 43425, 42495, 41584, 40693, 39821, 38968, 38133, 37316, 36516, 35734, 34968, 34219, 33486,
};

static const int MIDDLE[10] = {16, 48, 80, 104, 116, 122, 125, 127, -128, 0};

static void set_distribution(uint16_t *frequency, int scale, int class) {
    const int64_t half_life = (int64_t)(scale & 1 ? 5793 : 8192) << 11 >> (scale >> 1);
    int64_t below[INTEGER_TOKENS];
    for (int i = 0; i < INTEGER_TOKENS; i++) {
        const int64_t edge = 256 * (i - REACH - 1) + 128 - MIDDLE[class];
        const int64_t far = ((edge < 0 ? -edge : edge) * half_life) >> 16;
        const int64_t power = far & 31 ? POWER[far & 31] : 65536, shift = far >> 5 < 32 ? far >> 5 : 32;
        const int64_t value = ((int64_t)1 << 32) / (65536 + (power >> shift));
        below[i] = ((edge < 0 ? 65536 - value : value) + 16) >> 5;
    }
    int most = 0;
    for (int i = 0; i < ESCAPE_TOKEN; i++) {
        frequency[i] = (uint16_t)(below[i + 1] - below[i]);
        if (frequency[i] > frequency[most]) most = i;
    }
    frequency[ESCAPE_TOKEN] = (uint16_t)(FREQUENCIES - (below[ESCAPE_TOKEN] - below[0]));
    if (!frequency[ESCAPE_TOKEN]) {
        frequency[most]--;
        frequency[ESCAPE_TOKEN] = 1;
    }
}

/* 1024 times the binary logarithm, rounded down, by squaring. */
static int64_t logarithm_1024(uint32_t value) {
    const int exponent = floor_log2(value);
    uint64_t x = (uint64_t)value << (30 - exponent);
    int64_t found = 0;
    for (int i = 0; i < 10; i++) {
        x = x * x >> 30;
        found *= 2;
        if (x >> 31) {
            x >>= 1;
            found++;
        }
    }
    return 1024 * exponent + found;
}

static int64_t cost_of(const IntegerTables *tables, int32_t value, int width, int class) {
    const int low = low_bits(width);
    const uint16_t *frequency = tables->frequency[kind_of_width(width, class)];
    const int32_t high = value >> low;
    if (high >= -REACH && high <= REACH && frequency[high + REACH]) {
        return BIT * (11 + low) - logarithm_1024(frequency[high + REACH]);
    }
    return BIT * (11 + low + golomb_bits(zigzag(high), ESCAPE_ORDER)) - logarithm_1024(frequency[ESCAPE_TOKEN]);
}

const IntegerTables *integer_tables_make(const Kernels *kernels) {
    IntegerTables *tables = calloc(1, sizeof *tables);
    if (!tables) return NULL;
    for (int scale = 1; scale < 24; scale++) {
        for (int class = 0; class < 10; class++) {
            const int kind = scale * 10 + class;
            uint16_t *frequency = tables->frequency[kind];
            set_distribution(frequency, scale, class);
            divisions_set(tables->division[kind], frequency, 0, INTEGER_TOKENS);
            kernels->set_slots(tables->slots + (size_t)kind * FREQUENCIES, frequency, 0, INTEGER_TOKENS);
        }
    }
    for (int row = 0; row < COST_ROWS; row++) {
        for (int i = 0; i < COST_STRIDE; i++) {
            int width = i - COST_BEFORE;
            width = width < 1 ? 1 : width > MOST_WIDTH ? MOST_WIDTH : width;
            int64_t cost;
            if (row < COST_CLASSES * COST_TOKENS) {
                const int class = row / COST_TOKENS;
                cost = cost_of(tables, row % COST_TOKENS - REACH, width, class == COST_CLASSES - 1 ? EXACT_CLASS : class);
            } else {
                const int bucket = row - COST_CLASSES * COST_TOKENS;
                cost = cost_of(tables, (5 + 2 * (bucket & 1)) << ((bucket >> 1) + 2), width, 0);
            }
            tables->cost[row][i] = (uint32_t)cost;
        }
        const uint32_t *cost = tables->cost[row] + COST_BEFORE;
        int width = MOST_WIDTH;
        while (width > 1 && cost[width - 1] <= cost[width]) width--;
        tables->enough[row] = (uint8_t)width;
    }
    for (int i = 0; i < SPREADS; i++) {
        const int exact = (COST_CLASSES - 1) * COST_TOKENS + REACH, at = COST_BEFORE + SPREAD_WIDTHS[i];
        const int64_t none = tables->cost[exact][at], one = tables->cost[exact + 1][at];
        const int64_t more = (int64_t)tables->cost[exact + 2][at] - one;
        tables->price[i][0] = none;
        tables->price[i][1] = one - more;
        tables->price[i][2] = more;
    }
    return tables;
}

/* Scratch */

static size_t run_length(const Rows *run) {
    return run->row > 1 ? run->row * ((SHORTEST_RUN + run->row - 1) / run->row) : RUN_WITHOUT_ROWS;
}

size_t most_widths(const Rows *run) { return run->words / run_length(run) + 2; }

static size_t columns_of(const Rows *run) { return run->row < 2 || run->words < LEAST_ROWS * run->row ? 0 : run->row; }

size_t layout_scratch(const Rows *run) {
    const size_t count = most_widths(run), columns = columns_of(run);
    const size_t steps = count > columns ? count : columns;
    return 2 * rounded(count * (MOST_WIDTH + 1) * sizeof(int64_t)) + rounded(steps * SPREADS * (MOST_WIDTH + 1)) +
           4 * rounded(count) + rounded(columns * CORRECTIONS * sizeof(int64_t)) + rounded(columns * CORRECTIONS * sizeof(uint32_t)) + 2 * rounded(columns + 64) +
           rounded(run->words + 64) + 64;
}

typedef struct {
    int64_t *fine, *sums;
    uint8_t *came, *widths;
} Search;

/* The widths that take least, of runs of `length` words or of several of these. `fine` has a row of MOST_WIDTH + 1 for
   each; no width above `most` is looked at. */
static int64_t best_runs(const Kernels *kernels, const IntegerTables *tables, const Search *search, size_t count, int most, const Rows *run,
                         size_t length, int before, WidthLayout *layout) {
    static const size_t TOGETHER[ROWS_TOGETHER] = {1, 4, 16, 0};
    enum { STRIDE = MOST_WIDTH + 1 };
    int widest = 1, narrowest = most;
    for (size_t i = 0; i < count; i++) {
        const int best = kernels->cheapest_width(search->fine + i * STRIDE, most);
        widest = best > widest ? best : widest;
        narrowest = best < narrowest ? best : narrowest;
    }
    const size_t first = run->start % length;
    int64_t least = INT64_MAX;
    for (int turn = 0; turn < ROWS_TOGETHER; turn++) {
        const size_t together = TOGETHER[turn];
        if (together && length * together >= run->words) continue;
        const size_t span = together ? length * together : run->words, lead = together ? run->start % span : 0;
        const size_t runs = (lead + run->words - 1) / span + 1;
        const int64_t *sums = search->fine;
        if (together != 1) {
            memset(search->sums, 0, runs * STRIDE * sizeof *search->sums);
            for (size_t i = 0; i < count; i++) {
                const size_t at = together ? (i + (lead - first) / length) / together : 0;
                for (int width = narrowest; width <= widest; width++) {
                    search->sums[at * STRIDE + (size_t)width] += search->fine[i * STRIDE + (size_t)width];
                }
            }
            sums = search->sums;
        }
        int64_t total = kernels->find_path(tables->price, sums, runs, STRIDE, widest, narrowest, before, search->widths, search->came);
        total += BIT * (together ? RUN_BITS : 1);
        if (total < least) {
            least = total;
            layout->length = span;
            layout->first = lead;
            layout->count = runs;
            memcpy(layout->widths, search->widths, runs);
        }
    }
    return least;
}

int64_t find_layout(const Kernels *kernels, const IntegerTables *tables, const uint16_t *places, const Rows *run,
                    int before, WidthLayout *layout, void *scratch) {
    enum { STRIDE = MOST_WIDTH + 1 };
    const size_t length = run_length(run), lead = run->start % length, words = run->words;
    const size_t count = (lead + words - 1) / length + 1, columns = columns_of(run), most = most_widths(run);
    Arena arena = {scratch};
    Search search = {.fine = take(&arena, most * STRIDE * sizeof(int64_t)),
                     .sums = take(&arena, most * STRIDE * sizeof(int64_t)),
                     .came = take(&arena, (most > columns ? most : columns) * SPREADS * STRIDE),
                     .widths = take(&arena, most)};
    layout->words = words;
    layout->row = 0;
    layout->columns = 0;
    int enough = 1;
    for (size_t i = 0; i < words; i++) enough = tables->enough[places[i]] > enough ? tables->enough[places[i]] : enough;
    for (size_t i = 0; i < count; i++) {
        const size_t start = i ? i * length - lead : 0, end = (i + 1) * length - lead;
        kernels->sum_costs(tables->cost, places + start, (end < words ? end : words) - start, enough,
                           search.fine + i * STRIDE);
    }
    const int64_t plain = best_runs(kernels, tables, &search, count, enough, run, length, before, layout);
    /* Below an eighth of a bit a word, columns have little to tell. */
    if (!columns || 8 * plain < BIT * (int64_t)words) return plain;

    WidthLayout other = {.words = words, .row = run->row, .column = run->row > 9 && run->row % 9 == 0 ? 9 : 1};
    other.at = run->start % run->row;
    other.columns = (run->row + other.column - 1) / other.column;
    other.widths = take(&arena, most);
    int64_t *sums = take(&arena, columns * CORRECTIONS * sizeof *sums);
    uint32_t *some_sums = take(&arena, columns * CORRECTIONS * sizeof *some_sums);
    uint8_t *chosen = take(&arena, columns + 64);
    int8_t *of_row = take(&arena, columns + 64);
    memset(sums, 0, other.columns * CORRECTIONS * sizeof *sums);
    memset(some_sums, 0, other.columns * CORRECTIONS * sizeof *some_sums);
    int widest = 1;
    size_t summed = 0;
    for (size_t i = 0; i < layout->count; i++) {
        widest = layout->widths[i] > widest ? layout->widths[i] : widest;
        size_t start = i ? i * layout->length - layout->first : 0, end = (i + 1) * layout->length - layout->first;
        end = end < words ? end : words;
        while (start < end) {
            /* What is left of a row. */
            const size_t at = (start + other.at) % run->row;
            const size_t here = end - start < run->row - at ? end - start : run->row - at;
            kernels->sum_columns(tables->cost, places + start, here, layout->widths[i], at, other.column, some_sums);
            start += here;
            summed += here;
            if (summed < MOST_SUMMED && start < words) continue;
            for (size_t j = 0; j < other.columns * CORRECTIONS; j++) {
                sums[j] += some_sums[j];
                some_sums[j] = 0;
            }
            summed = 0;
        }
    }
    kernels->find_path(tables->price, sums, other.columns, CORRECTIONS, CORRECTIONS - 1, 0, -LEAST_CORRECTION, chosen, search.came);
    int any = 0, last = 0;
    int64_t told = 0;
    for (size_t i = 0; i < other.columns; i++) {
        const int correction = chosen[i] + LEAST_CORRECTION;
        layout->corrections[i] = (int8_t)correction;
        any |= correction;
        told += golomb_bits(zigzag(correction - last), 0);
        last = correction;
    }
    if (!any) return plain;
    for (size_t i = 0; i < run->row; i++) of_row[i] = layout->corrections[i / other.column];
    widest = widest - LEAST_CORRECTION < MOST_WIDTH ? widest - LEAST_CORRECTION : MOST_WIDTH;
    memset(search.fine, 0, count * STRIDE * sizeof *search.fine);
    for (size_t i = 0; i < count; i++) {
        size_t start = i ? i * length - lead : 0, end = (i + 1) * length - lead;
        end = end < words ? end : words;
        while (start < end) {
            const size_t at = (start + other.at) % run->row;
            const size_t here = end - start < run->row - at ? end - start : run->row - at;
            kernels->sum_corrected(tables->cost, places + start, of_row + at, here, widest, search.fine + i * STRIDE);
            start += here;
        }
    }
    const int64_t total = best_runs(kernels, tables, &search, count, widest, run, length, before, &other) + BIT * (RUN_BITS + told);
    if (total >= plain) return plain;
    memcpy(layout->widths, other.widths, other.count);
    layout->length = other.length;
    layout->first = other.first;
    layout->count = other.count;
    layout->row = other.row;
    layout->column = other.column;
    layout->at = other.at;
    layout->columns = other.columns;
    return total;
}
