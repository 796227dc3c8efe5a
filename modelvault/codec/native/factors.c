#include "factors.h"

#include <math.h>

#include "arena.h"

enum { SKETCH_BITS = 10, BITS_BETWEEN = 11, SWEEPS = 4, UNIT_BITS = 3 };
enum { MOST_IN_SPAN = (1 << BITS_BETWEEN) - 1, MOST_FACTOR = (1 << 15) - 1 };

static const double SPAN_ROOT = 256, COST = 5, SAVED = 0.72, MOST_NOISE = 0.12, ROUNDING = 1.0 / 12, NOTHING = 1e-12;

static size_t multiple(size_t count, size_t of) { return (count + of - 1) / of * of; }

View view_of(size_t columns, size_t first, size_t n) {
    View view = {.columns = columns, .first = first, .n = n, .rows = (first + n + columns - 1) / columns};
    view.down = multiple(view.rows, PAIR_COLUMNS);
    if (!(view.down % 512)) view.down += PAIR_COLUMNS;
    view.across = multiple(columns, PAIR_COLUMNS);
    return view;
}

double unit_of(double root) {
    int exponent;
    if (!(root > 0x1p-100 && root < 0x1p100)) return 0;
    frexp(root, &exponent);
    return ldexp(1, exponent - 1 - UNIT_BITS);
}

Likeness likeness_of(const Kernels *kernels, const int16_t *rows, size_t count, size_t columns) {
    enum { MOST_ROWS = 16 };
    double own[MOST_ROWS], alike = 0;
    Likeness likeness = {0};
    for (size_t i = 0; i < count; i++) {
        own[i] = (double)kernels->dot_shorts(rows + i * columns, rows + i * columns, columns);
        likeness.squares += own[i];
        for (size_t j = 0; j < i; j++) {
            const double product = (double)kernels->dot_shorts(rows + i * columns, rows + j * columns, columns);
            const double both = own[i] * own[j];
            alike += both > 0 ? product * product / both : 0;
        }
    }
    for (size_t i = 0; i < count; i++) likeness.weak += own[i] * 4 * (double)count < likeness.squares;
    likeness.cosines = alike / ((double)(count * (count - 1)) / 2);
    return likeness;
}

/* Integers shifted until they have so many bits without their signs; returns by how much. */
static int make_narrow(const Kernels *kernels, const int32_t *values, size_t n, int width, int16_t *shorts) {
    const uint32_t most = kernels->find_most(values, n);
    int shift = 0;
    while (most >> shift >> width) shift++;
    kernels->make_short(values, n, shift, shorts);
    return shift;
}

/* Products of all rows with one another. */
static void find_gram(const Kernels *kernels, const int16_t *rows, size_t size, size_t n, double *gram) {
    for (size_t i = 0; i < size; i++) {
        for (size_t j = 0; j <= i; j++) {
            gram[i * size + j] = gram[j * size + i] = (double)kernels->dot_shorts(rows + i * n, rows + j * n, n);
        }
    }
}

/* The lower factor, with columns of 0 for what is in those before it. */
static void cholesky(const double *gram, size_t size, double *lower) {
    double column[DIRECTIONS];
    memset(lower, 0, size * size * sizeof *lower);
    for (size_t j = 0; j < size; j++) {
        for (size_t i = j; i < size; i++) column[i] = gram[i * size + j];
        for (size_t k = 0; k < j; k++) {
            for (size_t i = j; i < size; i++) column[i] -= lower[i * size + k] * lower[j * size + k];
        }
        if (!(column[j] > NOTHING * gram[j * size + j])) continue;
        const double inverse = 1 / sqrt(column[j]);
        for (size_t i = j; i < size; i++) lower[i * size + j] = column[i] * inverse;
    }
}

/* What the factor gives `other` times, turned; lines of 0 where it has none. */
static void divide(const double *lower, size_t size, const double *other, double *turned) {
    double made[DIRECTIONS * DIRECTIONS];
    for (size_t i = 0; i < size; i++) {
        double *line = made + i * size;
        memcpy(line, other + i * size, size * sizeof *line);
        for (size_t k = 0; k < i; k++) {
            for (size_t x = 0; x < size; x++) line[x] -= lower[i * size + k] * made[k * size + x];
        }
        const double own = lower[i * size + i], inverse = own > 0 ? 1 / own : 0;
        for (size_t x = 0; x < size; x++) line[x] = own > 0 ? line[x] * inverse : 0;
    }
    for (size_t i = 0; i < size; i++) {
        for (size_t x = 0; x < size; x++) turned[x * size + i] = made[i * size + x];
    }
}

/* By how much of each line the span has to be taken for a direction, which is a row of `vectors`. */
static void solve(const double *lower, size_t size, const double *vector, double *by) {
    for (size_t i = size; i-- > 0;) {
        double value = vector[i];
        for (size_t k = i + 1; k < size; k++) value -= lower[k * size + i] * by[k];
        const double own = lower[i * size + i];
        by[i] = own > 0 ? value * (1 / own) : 0;
    }
}

/* Lines at right angles, that have what others have. */
static void square_up(const Kernels *kernels, const View *view, const double *lower, size_t size, const int16_t *lines,
                      int16_t *span) {
    const double times = SPAN_ROOT * sqrt((double)view->rows);
    for (size_t start = 0; start < size; start += PAIR_LINES) {
        float angles[DIRECTIONS * PAIR_LINES];
        for (size_t j = 0; j < PAIR_LINES; j++) {
            double own[DIRECTIONS] = {0}, by[DIRECTIONS];
            own[start + j] = 1;
            solve(lower, size, own, by);
            for (size_t i = 0; i < size; i++) angles[i * PAIR_LINES + j] = (float)(by[i] * times);
        }
        kernels->combine(lines, size, angles, view->down, MOST_IN_SPAN, span + start * view->down);
    }
}

/* What is the same for any number of directions. */
typedef struct {
    const int16_t *numbers;
    int32_t *by_rows, *by_columns; /* pairs, of two rows and of two columns; these turned */
    double squares;
} Paired;

static size_t rounded_pairs(const View *view) { return rounded(4 * (view->down / 2 * view->across)); }

size_t factors_scratch(const View *view) {
    const size_t longest = view->down > view->across ? view->down : view->across;
    return 2 * rounded_pairs(view) + rounded(4 * DIRECTIONS * longest) + rounded(2 * DIRECTIONS * longest) +
           rounded(2 * DIRECTIONS * view->down) + rounded(2 * DIRECTIONS * view->across) + rounded(4 * DIRECTIONS * longest);
}

static size_t find_among(const Kernels *kernels, const View *view, const Paired *paired, double unit, float *s,
                         int16_t *left, int16_t *right, Arena arena) {
    const size_t size = DIRECTIONS, down = view->down, across = view->across, longest = down > across ? down : across;
    int32_t *const sums = take(&arena, 4 * size * longest);
    int16_t *const sketch = take(&arena, 2 * size * longest), *const lines = sketch; /* one after the other */
    int16_t *const span = take(&arena, 2 * size * down), *const part = take(&arena, 2 * size * across);
    int32_t *const pairs = take(&arena, 4 * size * longest);
    double gram[DIRECTIONS * DIRECTIONS], lower[DIRECTIONS * DIRECTIONS];
    double inner[DIRECTIONS * DIRECTIONS], vectors[DIRECTIONS * DIRECTIONS], energies[DIRECTIONS];

    memset(sums, 0, 4 * size * across);
    for (size_t i = 0; i < view->rows; i++) {
        const uint64_t turn = i / size + 1;
        const int32_t sign = 1 - 2 * (int32_t)(turn * 0x9E3779B1u >> 15 & 1);
        kernels->add_row(sums + i % size * across, paired->numbers + i * across, across, sign);
    }
    make_narrow(kernels, sums, size * across, SKETCH_BITS, sketch);
    kernels->turn_pairs((const int32_t *)sketch, size, across / 2, pairs);
    kernels->multiply_pairs(pairs, size, paired->by_columns, down, across / 2, size, down, sums, down);
    make_narrow(kernels, sums, size * down, BITS_BETWEEN, lines);
    find_gram(kernels, lines, size, down, gram);
    cholesky(gram, size, lower);
    square_up(kernels, view, lower, size, lines, span);
    kernels->turn_pairs((const int32_t *)span, size, down / 2, pairs);
    kernels->multiply_pairs(pairs, size, paired->by_rows, across, down / 2, size, across, sums, across);
    const int shift = make_narrow(kernels, sums, size * across, BITS_BETWEEN, part);

    find_gram(kernels, span, size, down, gram);
    cholesky(gram, size, lower);
    find_gram(kernels, part, size, across, gram);
    divide(lower, size, gram, inner);
    divide(lower, size, inner, gram);
    kernels->rotate(gram, vectors, SWEEPS * (size - 1), energies);

    size_t chosen[DIRECTIONS], count = 0;
    double rest = paired->squares, total = 0;
    bool is_taken[DIRECTIONS] = {false};
    const double sides_ = (double)(view->rows + view->columns), words = (double)view->n;
    for (size_t i = 0; i < size; i++) energies[i] = ldexp(energies[i], 2 * shift);
    while (count < size) {
        size_t best = size;
        for (size_t i = 0; i < size; i++) {
            if (!is_taken[i] && (best == size || energies[i] > energies[best])) best = i;
        }
        const double energy = energies[best];
        if ((count + 1) * (view->rows + view->columns) > view->n) break;
        if (!(SAVED * energy * words > COST * sides_ * rest)) break;
        is_taken[best] = true;
        chosen[count++] = best;
        rest = rest - energy > words * ROUNDING ? rest - energy : words * ROUNDING;
        total += sqrt(energy);
    }
    if (!count) return 0;
    const double share = (double)count * sides_ / words, noise = share < MOST_NOISE ? share : MOST_NOISE;
    const double step = sqrt(12 * noise * rest / (total * sides_));
    for (size_t start = 0; start < count; start += PAIR_LINES) {
        float to_left[DIRECTIONS * PAIR_LINES] = {0}, to_right[DIRECTIONS * PAIR_LINES] = {0};
        for (size_t j = start; j < count && j < start + PAIR_LINES; j++) {
            double by[DIRECTIONS];
            const double root = sqrt(sqrt(energies[chosen[j]])), left_times = root / step, right_times = 1 / (root * step);
            solve(lower, size, vectors + chosen[j] * size, by);
            for (size_t i = 0; i < size; i++) {
                to_left[i * PAIR_LINES + j - start] = (float)(by[i] * left_times);
                to_right[i * PAIR_LINES + j - start] = (float)(ldexp(by[i], shift) * right_times);
            }
        }
        kernels->combine(span, size, to_left, down, MOST_FACTOR, left + start * down);
        kernels->combine(part, size, to_right, across, MOST_FACTOR, right + start * across);
    }
    *s = (float)(step * step * unit);
    return count;
}

size_t find_factors(const Kernels *kernels, const View *view, const int16_t *numbers, double unit, float *s,
                    int16_t *left, int16_t *right, void *scratch) {
    const size_t down = view->down, across = view->across;
    Arena arena = {scratch};
    Paired paired = {.numbers = numbers, .by_rows = take(&arena, 2 * down * across)};
    paired.by_columns = take(&arena, 2 * down * across);
    for (size_t i = 0; i < down; i += 2) {
        kernels->pair_rows(numbers + i * across, numbers + (i + 1) * across, across, paired.by_rows + i / 2 * across);
    }
    kernels->turn_pairs((const int32_t *)numbers, down, across / 2, paired.by_columns);
    int64_t squares = 0;
    for (size_t i = 0; i < view->rows; i++) {
        squares += kernels->dot_shorts(numbers + i * across, numbers + i * across, across);
    }
    paired.squares = (double)squares;
    return find_among(kernels, view, &paired, unit, s, left, right, arena);
}
