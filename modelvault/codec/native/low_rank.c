#include "low_rank.h"

#include <math.h>

#include "arena.h"
#include "bits.h"
#include "factors.h"
#include "glance.h"

enum { LEAST_WORDS = 1 << 15, LEAST_SIDE = 16, MOST_SIDE = (1 << 13) - 1, SOME_ROWS = LEAST_SIDE, SOME_COLUMNS = 512 };
enum { LEAST_LIKENESS = 12, MOST_WEAK = 8 };
enum { MOST = 255, MOST_COLUMNS = 1 << 16, MOST_FACTOR = (1 << 15) - 1, HEAD = 1 + 4 + 5 + 5 + 2 + 5 };

static const Predictor PREVIOUS_ONLY = {.kind = PREVIOUS};

static Task beside(Format format, const void *const *expected, size_t n) {
    return (Task){.format = format, .n = n, .predictor = &PREVIOUS_ONLY, .predictors = 1, .references = expected};
}

static size_t word_bytes(Format format) { return (size_t)LAYOUTS[format].word_bytes; }

static bool is_looked_at(const Task *task, Place place, View *view) {
    if (task->n < LEAST_WORDS || place.row < LEAST_SIDE || place.row > MOST_SIDE) return false;
    *view = view_of(place.row, place.start % place.row, task->n);
    return view->rows >= LEAST_SIDE && view->rows <= MOST_SIDE;
}

/* References from so many words on. */
static void from_word(const Task *task, size_t at, const void *references[MAX_REFERENCES]) {
    for (int i = 0; i < MAX_REFERENCES; i++) {
        const uint8_t *reference = task->references[i];
        references[i] = reference ? reference + at * word_bytes(task->format) : NULL;
    }
}

/* What words are predicted from: nothing, the reference, or the tensor's first predictor. */
typedef enum { FROM_PREVIOUS, FROM_NOTHING, FROM_PREDICTOR, BASES } Base;

static void gather_few(Format format, const void *words, size_t n, void *few) {
    const size_t length = AT_EACH * word_bytes(format), step = n / PLACES * word_bytes(format);
    for (size_t i = 0; i < PLACES; i++) memcpy((uint8_t *)few + i * length, (const uint8_t *)words + i * step, length);
}

static void predict_from(const Kernels *kernels, const Task *task, Base base, size_t at, size_t n, void *words) {
    const void *references[MAX_REFERENCES];
    if (base == FROM_NOTHING) {
        memset(words, 0, n * word_bytes(task->format));
        return;
    }
    from_word(task, at, references);
    kernels->predict[task->format](base == FROM_PREDICTOR ? task->predictor : &PREVIOUS_ONLY, references, n, words);
}

/* Changes in what some rows begin with; 0 where the chunk has no word. */
static void take_some(const Kernels *kernels, const Task *task, const View *view, const void *words, Base base,
                      size_t columns, float *some) {
    const size_t width = word_bytes(task->format);
    uint32_t predicted[SOME_COLUMNS];
    memset(some, 0, 4 * SOME_ROWS * columns);
    for (size_t i = 0; i < SOME_ROWS; i++, some += columns) {
        const size_t begin = i * view->rows / SOME_ROWS * view->columns, end = begin + columns;
        if (end <= view->first || begin >= view->first + view->n) continue;
        const size_t from = begin > view->first ? begin - view->first : 0;
        const size_t to = end - view->first < view->n ? end - view->first : view->n;
        predict_from(kernels, task, base, from, to - from, predicted);
        kernels->find_changes[task->format]((const uint8_t *)words + from * width, predicted, to - from,
                                            some + from + view->first - begin);
    }
}

/* In binary64, whose squares a sum goes by. */
static double sum_squares(const Kernels *kernels, const float *some, size_t n) {
    double numbers[SOME_ROWS * SOME_COLUMNS];
    for (size_t i = 0; i < n; i++) numbers[i] = some[i];
    return kernels->dot(numbers, numbers, n);
}

/* What words are best predicted from, by what is left of some rows when their common direction is known. BASES if their
   rows are hardly more alike than by chance. */
static Base choose_base(const Kernels *kernels, const Task *task, const View *view, const void *words, double *unit) {
    const size_t columns = view->columns < SOME_COLUMNS ? view->columns : SOME_COLUMNS, n = SOME_ROWS * columns;
    float some[SOME_ROWS * SOME_COLUMNS];
    int16_t rounded_[SOME_ROWS * SOME_COLUMNS];
    double least = INFINITY;
    Likeness chosen_likeness = {0};
    Base chosen = BASES;
    for (Base base = FROM_PREVIOUS; base < BASES; base++) {
        if (base == FROM_PREDICTOR && task->predictor->kind == PREVIOUS) continue;
        take_some(kernels, task, view, words, base, columns, some);
        const double own = unit_of(sqrt(sum_squares(kernels, some, n) / (double)n));
        if (!(own > 0)) continue;
        kernels->round_singles(some, n, (float)(1 / own), rounded_);
        const Likeness likeness = likeness_of(kernels, rounded_, SOME_ROWS, columns);
        const double left = likeness.squares * own * own * (1 - sqrt(likeness.cosines));
        if (left < least) {
            least = left;
            chosen = base;
            *unit = own;
            chosen_likeness = likeness;
        }
    }
    const bool are_alike = chosen_likeness.cosines * (double)columns > LEAST_LIKENESS;
    return are_alike && chosen_likeness.weak <= MOST_WEAK ? chosen : BASES;
}

/* Changes of all words, in rows. */
static void take_changes(const Kernels *kernels, const Task *task, const View *view, const void *words, const void *base,
                         double unit, int16_t *numbers) {
    const size_t width = word_bytes(task->format);
    memset(numbers, 0, 2 * view->down * view->across);
    size_t column = view->first;
    for (size_t at = 0; at < view->n; column = 0, numbers += view->across) {
        const size_t in_row = view->columns - column, left = view->n - at, n = in_row < left ? in_row : left;
        kernels->round_changes[task->format]((const uint8_t *)words + at * width, (const uint8_t *)base + at * width, n,
                                             (float)(1 / unit), numbers + column);
        at += n;
    }
}

static size_t products_room(const View *view, size_t directions) {
    return rounded(4 * ((directions + 1) / 2) * view->down) + rounded(4 * ((directions + 1) / 2) * view->across) +
           rounded(4 * PAIR_LINES * view->across) + rounded(2 * (view->down > view->across ? view->down : view->across));
}

/* What words are expected to be that differ from others by the product. */
static void expect_products(const Kernels *kernels, Format format, const View *view, const void *base, float s,
                            size_t directions, const int16_t *left, const int16_t *right, void *expected, Arena arena) {
    const size_t down = view->down, across = view->across, pairs = (directions + 1) / 2, width = word_bytes(format);
    int32_t *lefts = take(&arena, 4 * pairs * down), *rights = take(&arena, 4 * pairs * across);
    int32_t *products = take(&arena, 4 * PAIR_LINES * across);
    int16_t *none = take(&arena, 2 * (down > across ? down : across));
    memset(none, 0, 2 * (down > across ? down : across));
    for (size_t j = 0; j < pairs; j++) {
        const bool is_pair = 2 * j + 1 < directions;
        kernels->pair_rows(left + 2 * j * down, is_pair ? left + (2 * j + 1) * down : none, down, lefts + j * down);
        kernels->pair_rows(right + 2 * j * across, is_pair ? right + (2 * j + 1) * across : none, across, rights + j * across);
    }
    size_t at = 0, column = view->first;
    for (size_t row = 0; row < view->rows; row++) {
        const size_t in_row = view->columns - column, left_over = view->n - at, n = in_row < left_over ? in_row : left_over;
        const size_t line = row % PAIR_LINES;
        if (!line) {
            kernels->multiply_pairs(lefts + row, down, rights, across, pairs, PAIR_LINES, across, products, across);
        }
        kernels->add_products[format]((const uint8_t *)base + at * width, products + line * across + column, n, s,
                                      (uint8_t *)expected + at * width);
        at += n;
        column = 0;
    }
}

/* As words of which codec 4 knows zeros. */
static void words_of_factors(const View *view, size_t directions, const int16_t *left, const int16_t *right,
                             uint32_t *words) {
    for (size_t j = 0; j < directions; j++) {
        for (size_t i = 0; i < view->rows + view->columns; i++) {
            const int32_t number = i < view->rows ? left[j * view->down + i] : right[j * view->across + i - view->rows];
            *words++ = number < 0 ? (uint32_t)-number | 0x80000000u : (uint32_t)number;
        }
    }
}

/* Returns NULL, or what is wrong. */
static const char *factors_of_words(const View *view, size_t directions, const uint32_t *words, int16_t *left,
                                    int16_t *right) {
    const size_t sides = view->rows + view->columns;
    uint32_t most = 0;
    for (size_t i = 0; i < directions * sides; i++) {
        const uint32_t magnitude = words[i] & 0x7FFFFFFF;
        most = magnitude > most ? magnitude : most;
    }
    if (most > MOST_FACTOR) return "a factor has more than 15 bits";
    memset(left, 0, 2 * directions * view->down);
    memset(right, 0, 2 * directions * view->across);
    for (size_t j = 0; j < directions; j++) {
        for (size_t i = 0; i < sides; i++) {
            const uint32_t word = *words++;
            const int16_t number = (int16_t)(word >> 31 ? -(int32_t)(word & MOST_FACTOR) : (int32_t)(word & MOST_FACTOR));
            *(i < view->rows ? left + j * view->down + i : right + j * view->across + i - view->rows) = number;
        }
    }
    return NULL;
}

static uint32_t distance(const Kernels *kernels, Format format, const void *words, const void *expected) {
    uint32_t residuals[FEW];
    uint8_t tokens[FEW];
    if (format == FORMAT_F32) {
        kernels->residual32(words, expected, FEW, 0, residuals, tokens);
    } else {
        kernels->residual16(words, expected, FEW, 0, (uint16_t *)residuals, tokens);
    }
    return kernels->sum(tokens, FEW);
}

/* By how much nearer a few words are to what is expected than to what is predicted, as twice the bits of it, about. */
static int64_t count_saved(const Kernels *kernels, const Task *task, const void *words, const void *expected) {
    uint32_t own[FEW], other[FEW], kept[MAX_REFERENCES][FEW], predicted[FEW];
    const void *references[MAX_REFERENCES] = {NULL};
    gather_few(task->format, words, task->n, own);
    gather_few(task->format, expected, task->n, other);
    for (int i = 0; i < MAX_REFERENCES && task->references[i]; i++) {
        gather_few(task->format, task->references[i], task->n, kept[i]);
        references[i] = kept[i];
    }
    kernels->predict[task->format](task->predictor, references, FEW, predicted);
    return (int64_t)distance(kernels, task->format, own, predicted) - distance(kernels, task->format, own, other);
}

size_t encode_low_rank_scratch(const Task *task, Place place) {
    View view;
    if (!is_looked_at(task, place, &view)) return 0;
    const size_t n = task->n, most = DIRECTIONS, cells = view.down * view.across;
    const Task of_words = {.format = task->format, .n = n, .predictors = 1};
    const Task of_factors = {.format = FORMAT_F32, .n = n, .predictors = 1};
    const size_t finding = rounded(2 * cells) + factors_scratch(&view), telling = 3 * rounded(4 * n + BODY_ROOM) + encode_scratch(&of_factors);
    size_t later = telling > finding ? telling : finding;
    const size_t rest = encode_scratch(&of_words), expecting = products_room(&view, most);
    later = rest > later ? rest : later;
    later = expecting > later ? expecting : later;
    return 2 * rounded(4 * n) + rounded(2 * most * view.down) + rounded(2 * most * view.across) + later;
}

size_t encode_low_rank(const Kernels *kernels, const Task *task, Place place, const void *words, uint8_t *body,
                       size_t limit, bool *is_delta, void *scratch) {
    View view;
    if (!is_looked_at(task, place, &view)) return 0;
    const size_t n = task->n, width = word_bytes(task->format);
    Arena arena = {scratch};
    double unit = 0;
    float s;
    const Base base = choose_base(kernels, task, &view, words, &unit);
    if (base == BASES) return 0;
    void *predicted = take(&arena, 4 * n), *expected = take(&arena, 4 * n);
    int16_t *left = take(&arena, 2 * DIRECTIONS * view.down), *right = take(&arena, 2 * DIRECTIONS * view.across);
    if (base != FROM_PREVIOUS) predict_from(kernels, task, base, 0, n, predicted);
    const void *known = base == FROM_PREVIOUS ? task->references[0] : predicted;
    Arena later = arena;
    int16_t *numbers = take(&later, 2 * view.down * view.across);
    take_changes(kernels, task, &view, words, known, unit, numbers);
    const size_t directions = find_factors(kernels, &view, numbers, unit, &s, left, right, later.at);
    if (!directions) return 0;
    expect_products(kernels, task->format, &view, known, s, directions, left, right, expected, arena);

    const int64_t saved = count_saved(kernels, task, words, expected);
    uint8_t head[HEAD], *at = head;
    *is_delta = base != FROM_NOTHING;
    if (*is_delta) *at++ = base == FROM_PREDICTOR;
    memcpy(at, &s, 4);
    at += 4;
    put_uint(&at, head + HEAD, view.columns);
    put_uint(&at, head + HEAD, view.first);
    put_uint(&at, head + HEAD, directions);
    later = arena;
    const size_t count = directions * (view.rows + view.columns);
    uint32_t *factors = take(&later, 4 * n), *zeros = take(&later, 4 * n);
    uint8_t *told = take(&later, 4 * n + BODY_ROOM);
    words_of_factors(&view, directions, left, right, factors);
    memset(zeros, 0, 4 * count);
    const void *references[MAX_REFERENCES] = {zeros};
    const Task of_factors = beside(FORMAT_F32, references, count);
    const size_t length = encode_body(kernels, &of_factors, (Place){0, 0}, factors, told, 4 * count, 4 * count, later.at);
    if (!length || saved * (int64_t)n <= 2 * 8 * (int64_t)length * FEW) return 0;
    put_uint(&at, head + HEAD, length);
    const size_t before = (size_t)(at - head) + length;
    if (before >= limit) return 0;
    memcpy(body, head, (size_t)(at - head));
    memcpy(body + (at - head), told, length);
    references[0] = expected;
    const Task of_words = beside(task->format, references, n);
    const size_t capacity = n * width < limit - before ? n * width : limit - before;
    const size_t rest = encode_body(kernels, &of_words, place, words, body + before, capacity, n * width, arena.at);
    return rest ? before + rest : 0;
}

bool looks_at_first(const uint8_t *body, size_t length) { return length && !*body; }

size_t decode_low_rank_scratch(const Task *task) {
    const size_t n = task->n;
    const Task of_words = {.format = task->format, .n = n, .predictors = 1};
    const Task of_factors = {.format = FORMAT_F32, .n = n, .predictors = 1};
    const size_t telling = rounded(4 * n) + decode_scratch(&of_factors), rest = decode_scratch(&of_words);
    /* Rows and columns are n + 1 together at most, and less than n / directions; and as many as fill up vectors. */
    const size_t sides = n + 2 * PAIR_COLUMNS, filled = MOST * 2 * PAIR_COLUMNS;
    const size_t across = (n < MOST_COLUMNS ? n : MOST_COLUMNS) + PAIR_COLUMNS;
    const size_t expecting = rounded(4 * (n + sides + filled)) + rounded(4 * PAIR_LINES * across) + rounded(2 * sides) + 256;
    size_t later = telling > rest ? telling : rest;
    later = expecting > later ? expecting : later;
    return rounded(4 * n) + rounded(2 * (n + filled)) + 64 + later;
}

const char *decode_low_rank(const Kernels *kernels, const Task *task, bool is_delta, const uint8_t *body, size_t length,
                            void *words, void *scratch) {
    const uint8_t *at = body, *end = body + length;
    const size_t n = task->n;
    size_t columns, first, directions, told;
    float s;
    int index = 0;
    if (!n) return "it has no words";
    if (length < (is_delta ? 5 : 4)) return "it ends too early";
    if (is_delta) index = *at++;
    if (index > task->predictors) return "it names a predictor that the tensor has not";
    memcpy(&s, at, 4);
    at += 4;
    if (!take_uint(&at, end, &columns) || !take_uint(&at, end, &first)) return "it ends too early";
    if (!take_uint(&at, end, &directions) || !take_uint(&at, end, &told)) return "it ends too early";
    if (told > (size_t)(end - at)) return "it ends too early";
    if (!isfinite(s)) return "its factors have no unit";
    if (columns < 1 || columns > n || columns > MOST_COLUMNS || first >= columns) return "its rows do not fit the chunk";
    const View view = view_of(columns, first, n);
    if (directions < 1 || directions > MOST || directions * (view.rows + columns) > n) return "it has too many directions";

    Arena arena = {scratch};
    void *predicted = take(&arena, 4 * n);
    int16_t *left = take(&arena, 2 * directions * (view.down + view.across)), *right = left + directions * view.down;
    const size_t count = directions * (view.rows + columns);
    Arena later = arena;
    uint32_t *factors = take(&later, 4 * n);
    memset(factors, 0, 4 * count);
    const void *references[MAX_REFERENCES] = {factors}; /* where they are, they are predicted: as zeros */
    const Task of_factors = beside(FORMAT_F32, references, count);
    const char *wrong = decode_body(kernels, &of_factors, at, told, factors, later.at);
    if (!wrong) wrong = factors_of_words(&view, directions, factors, left, right);
    if (wrong) return wrong;
    at += told;
    const void *known = predicted;
    if (!is_delta) {
        memset(predicted, 0, n * word_bytes(task->format));
    } else if (index) {
        kernels->predict[task->format](task->predictor + index - 1, task->references, n, predicted);
    } else {
        known = task->references[0];
    }
    expect_products(kernels, task->format, &view, known, s, directions, left, right, words, arena);
    references[0] = words; /* and so are they */
    const Task of_words = beside(task->format, references, n);
    return decode_body(kernels, &of_words, at, (size_t)(end - at), words, arena.at);
}
