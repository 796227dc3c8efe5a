#include "pieces.h"

#include <math.h>

#include "arena.h"
#include "tokens.h"

enum { TILE = 512, GOLOMB_ORDERS = 3, SPREAD_BITS = 2, FORMULA_BITS = 40 };
enum { LENGTH_ORDER = 5, MOST_LANES_LOG = 5, CORRECTED_AT_ONCE = 1024 };

static const int64_t BIT = 1024;

static bool is_counted(const Piece *piece) { return piece->kind >= PIECE_EQUAL; }

/* Steps that double, as words of a format see them. */
typedef struct {
    int shift;
    uint32_t top, first; /* the sign; the word from which on steps are the same, above all others if there is none */
    double below, unit, inverse;
} Doubling;

static bool doubling_of(Format format, const Piece *piece, Doubling *found) {
    const Layout layout = LAYOUTS[format];
    const int bits = 8 * layout.word_bytes, bias = (1 << (bits - 2 - layout.mantissa)) - 1;
    const int level = piece->exponent + piece->mantissa + bias;
    if (piece->mantissa < 1 || piece->mantissa > layout.mantissa || level < 1) return false;
    found->shift = layout.mantissa - piece->mantissa;
    found->top = 1u << (bits - 1);
    found->first = level <= 2 * bias ? (uint32_t)level << layout.mantissa : found->top;
    found->below = (double)(found->first >> found->shift);
    found->unit = (double)(1 << piece->mantissa);
    found->inverse = ldexp(1, -piece->exponent);
    return true;
}

bool pieces_fit(const PieceTask *task) {
    size_t words = 0;
    for (size_t i = 0; i < task->pieces; i++) {
        const Piece *piece = &task->piece[i];
        Doubling doubling;
        if (piece->words > task->n - words || piece->kind > PIECE_ANCHORED) return false;
        if (is_counted(piece) && !piece->words) return false;
        if (piece->exponent < -MOST_EXPONENT || piece->exponent > MOST_EXPONENT) return false;
        if (piece->kind == PIECE_DOUBLING && !doubling_of(task->format, piece, &doubling)) return false;
        if (piece->kind == PIECE_SAME && !task->reference) return false;
        if (!(piece->value - piece->value == 0)) return false; /* finite */
        words += piece->words;
    }
    return words == task->n;
}

static const uint8_t *from_word(Format format, const void *words, size_t i) {
    return (const uint8_t *)words + i * (size_t)LAYOUTS[format].word_bytes;
}

static double to_integer(double place) { return (place + 0x1.8p52) - 0x1.8p52; }

static uint8_t kind_of(double off) {
    const int distance = (int)(fabs(off) * 256);
    int class = (distance >= 32) + (distance >= 64) + (distance >= 96) + (distance >= 112);
    class += (distance >= 120) + (distance >= 124) + (distance >= 126);
    return (uint8_t)(class | (off < 0 ? LOWER_SIDE : 0));
}

/* From what each word is counted, and its kind. `base` are the numbers of the reference, where there is one. */
static void expect_some(const Kernels *kernels, const PieceTask *task, const Piece *piece, size_t start, size_t n,
                        const double *base, double *points, uint8_t *kinds) {
    if (!task->reference || piece->kind == PIECE_ANCHORED) {
        memset(points, 0, n * sizeof *points);
        memset(kinds, EXACT_CLASS, n);
        return;
    }
    if (piece->kind == PIECE_EQUAL) {
        kernels->expect(base, n, piece->value, ldexp(1, -piece->exponent), points, kinds);
        return;
    }
    Doubling doubling;
    doubling_of(task->format, piece, &doubling);
    const double share = ldexp(1, -doubling.shift);
    for (size_t i = 0; i < n; i++) {
        const uint32_t word = word_at(task->format, task->reference, start + i), magnitude = word & (doubling.top - 1);
        double place = magnitude < doubling.first
                           ? (double)magnitude * share
                           : fabs(base[i] * doubling.inverse) + (doubling.below - doubling.unit);
        place = word & doubling.top ? -1.0 - place : place;
        place = fabs(place) < 0x1p31 ? place : 0.0;
        points[i] = to_integer(place);
        kinds[i] = kind_of(place - points[i]);
    }
}

static double anchor_of(const double *base, size_t i) { return base && fabs(base[i]) < (double)INFINITY ? base[i] : 0.0; }

/* Returns whether any word stands on no step. */
static int count_some(const Kernels *kernels, const PieceTask *task, const Piece *piece, const void *words, size_t start,
                      size_t n, const double *base, const double *points, const uint8_t *kinds, int32_t *residuals,
                      uint8_t *marks) {
    double numbers[TILE];
    kernels->load[task->format](from_word(task->format, words, start), n, numbers);
    if (piece->kind == PIECE_EQUAL) {
        return kernels->count(numbers, n, ldexp(1, -piece->exponent), points, kinds, residuals, marks);
    }
    int any = 0;
    if (piece->kind == PIECE_ANCHORED) {
        for (size_t i = 0; i < n; i++) {
            const double anchor = anchor_of(base, i);
            double multiple = (numbers[i] - anchor) / piece->value;
            const bool near = fabs(multiple) < 0x1p22 + 1;
            multiple = near ? to_integer(multiple) : 0.0;
            const double number = anchor + multiple * piece->value;
            uint32_t word = 0;
            kernels->store[task->format](&number, 1, &word);
            const bool on = near && fabs(multiple) < 0x1p22 && word == word_at(task->format, words, start + i);
            residuals[i] = (int32_t)(on ? multiple : 0.0);
            marks[i] = !on;
            any |= !on;
        }
        return any;
    }
    Doubling doubling;
    doubling_of(task->format, piece, &doubling);
    for (size_t i = 0; i < n; i++) {
        const uint32_t word = word_at(task->format, words, start + i), magnitude = word & (doubling.top - 1);
        bool on;
        double place;
        if (magnitude < doubling.first) {
            on = !(magnitude & ((1u << doubling.shift) - 1));
            place = (double)(magnitude >> doubling.shift);
        } else {
            const double far = fabs(numbers[i] * doubling.inverse);
            on = far < 0x1p31 && to_integer(far) == far;
            place = doubling.below + far - doubling.unit;
        }
        place = word & doubling.top ? -1.0 - place : place;
        const double above = place - points[i], residual = kinds[i] & LOWER_SIDE ? -above : above;
        on = on && fabs(residual) < 0x1p22;
        residuals[i] = (int32_t)(on ? residual : 0.0);
        marks[i] = !on;
        any |= !on;
    }
    return any;
}

/* Returns false where there is no such step. */
static bool restore_some(const Kernels *kernels, const PieceTask *task, const Piece *piece, void *words, size_t start,
                         size_t n, const double *base, double *points, const uint8_t *kinds, const int32_t *residuals) {
    uint8_t *out = (uint8_t *)words + start * (size_t)LAYOUTS[task->format].word_bytes;
    if (piece->kind == PIECE_EQUAL) {
        kernels->recount(points, kinds, residuals, n, ldexp(1, piece->exponent));
        kernels->store[task->format](points, n, out);
        return true;
    }
    if (piece->kind == PIECE_ANCHORED) {
        for (size_t i = 0; i < n; i++) points[i] = anchor_of(base, i) + (double)residuals[i] * piece->value;
        kernels->store[task->format](points, n, out);
        return true;
    }
    Doubling doubling;
    doubling_of(task->format, piece, &doubling);
    const double unit = ldexp(1, piece->exponent);
    for (size_t i = 0; i < n; i++) {
        const int32_t residual = kinds[i] & LOWER_SIDE ? -residuals[i] : residuals[i];
        const double place = points[i] + (double)residual, counted = place < 0 ? -1.0 - place : place;
        uint32_t word = 0;
        if (counted < doubling.below) {
            word = (uint32_t)counted << doubling.shift;
        } else {
            if (counted >= 0x1p31 || doubling.first == doubling.top) return false;
            const double number = (counted - doubling.below + doubling.unit) * unit;
            kernels->store[task->format](&number, 1, &word);
        }
        word |= place < 0 ? doubling.top : 0;
        if (LAYOUTS[task->format].word_bytes == 4) {
            memcpy(out + 4 * i, &word, 4);
        } else {
            const uint16_t half = (uint16_t)word;
            memcpy(out + 2 * i, &half, 2);
        }
    }
    return true;
}

/* Every `step`th word from `start` on. */
static void take_words(Format format, const void *words, size_t start, size_t step, size_t count, void *taken) {
    if (LAYOUTS[format].word_bytes == 4) {
        for (size_t i = 0; i < count; i++) ((uint32_t *)taken)[i] = ((const uint32_t *)words)[start + i * step];
    } else {
        for (size_t i = 0; i < count; i++) ((uint16_t *)taken)[i] = ((const uint16_t *)words)[start + i * step];
    }
}

/* Of some of a piece's words, counted in steps; those that are beyond all integers count as 0. */
static double fit_factor(const Kernels *kernels, const PieceTask *task, const Piece *piece, const void *words,
                         size_t start, double *scratch) {
    enum { LEAST_FIT = 64, FACTOR = 1 << 16 };
    if (piece->kind != PIECE_EQUAL || piece->words < LEAST_FIT) return 1;
    const size_t step = piece->words > FIT_SAMPLE ? piece->words / FIT_SAMPLE | 1 : 1;
    const double inverse = ldexp(1, -piece->exponent);
    double *new = scratch, *old = new + 2 * FIT_SAMPLE; /* fewer than twice FIT_SAMPLE */
    size_t n = 0;
    for (size_t i = 0; i < piece->words; i += TILE * step) {
        uint32_t some[2][TILE];
        const size_t left = (piece->words - i + step - 1) / step, count = left < TILE ? left : TILE;
        take_words(task->format, words, start + i, step, count, some[0]);
        take_words(task->format, task->reference, start + i, step, count, some[1]);
        kernels->load[task->format](some[0], count, new + n);
        kernels->load[task->format](some[1], count, old + n);
        kernels->count_steps(new + n, old + n, count, inverse);
        n += count;
    }
    const double told = to_integer((kernels->dot(old, new, n) / kernels->dot(old, old, n) - 1) * FACTOR);
    if (told == 0 || !(fabs(told) <= FACTOR / 2)) return 1;
    const double factor = 1 + told / FACTOR;
    const double before = kernels->sum_misses(new, old, n, 1), after = kernels->sum_misses(new, old, n, factor);
    return after < before - before / 64 - 8 ? factor : 1;
}

void pieces_fit_factors(const Kernels *kernels, const PieceTask *task, const void *words, double *factors,
                        void *scratch) {
    size_t start = 0;
    for (size_t i = 0; i < task->pieces; start += task->piece[i++].words) {
        factors[i] = fit_factor(kernels, task, &task->piece[i], words, start, scratch);
    }
}

static Rows rows_of(const Piece *piece) { return (Rows){piece->words, piece->row, piece->start}; }

/* How many numbers there are, eight at a time, before one that is not 0. */
static size_t none_of(const uint8_t *numbers, size_t n) {
    size_t i = 0;
    for (uint64_t eight; i + 8 <= n; i += 8) {
        memcpy(&eight, numbers + i, 8);
        if (eight) break;
    }
    return i;
}

/* Numbers for the coding of integers. */
typedef struct {
    uint8_t *tokens, *tables, *low;
    uint16_t *stream;
    size_t room; /* words of the stream */
} Coder;

/* Write integers of these widths: states, stream, escapes, low bits. There is room for them. */
static uint8_t *write_integers(const Kernels *kernels, const IntegerTables *tables, const Coder *coder,
                               const int32_t *residuals, const uint8_t *kinds, const uint8_t *widths, size_t n,
                               int lanes, uint8_t *at, uint8_t *end) {
    const int any_low = kernels->kinds_of_widths(widths, kinds, n, coder->tables, coder->low);
    for (size_t i = 0; i < n; i++) {
        const uint32_t token = (uint32_t)((residuals[i] >> coder->low[i]) + REACH);
        const bool is_told = token < ESCAPE_TOKEN && tables->frequency[coder->tables[i]][token];
        coder->tokens[i] = is_told ? (uint8_t)token : ESCAPE_TOKEN;
    }
    uint32_t states[MAX_LANES];
    uint16_t *stream_end = coder->stream + coder->room;
    uint16_t *stream = kernels->encode(coder->tokens, coder->tables, n, tables->division[0], 64, states, lanes,
                                       stream_end);
    const size_t words = (size_t)(stream_end - stream);
    memcpy(at, states, 4 * (size_t)lanes);
    at += 4 * (size_t)lanes;
    put_uint(&at, end, words);
    memcpy(at, stream, 2 * words);
    at += 2 * words;
    BitWriter writer = {.at = at, .end = end};
    const uint8_t *escape = coder->tokens, *tokens_end = coder->tokens + n;
    while ((escape = memchr(escape, ESCAPE_TOKEN, (size_t)(tokens_end - escape)))) {
        const size_t i = (size_t)(escape++ - coder->tokens);
        bits_put_golomb(&writer, zigzag(residuals[i] >> coder->low[i]), ESCAPE_ORDER);
    }
    bits_close(&writer);
    for (size_t i = 0; any_low && (i += none_of(coder->low + i, n - i)) < n; i++) {
        const int shift = coder->low[i];
        bits_put(&writer, (uint32_t)residuals[i] & ((1u << shift) - 1), shift);
    }
    bits_close(&writer);
    return writer.at;
}

/* How differences are told in fewest bits: an order of Exp-Golomb codes, or from GOLOMB_ORDERS on a spread. */
static int order_of(const Kernels *kernels, const IntegerTables *tables, const int32_t *steps, size_t n) {
    uint16_t places[TILE];
    uint8_t kinds[TILE];
    memset(kinds, EXACT_CLASS, sizeof kinds);
    int64_t lengths[GOLOMB_ORDERS + SPREADS] = {0};
    for (int j = 0; j < SPREADS; j++) lengths[GOLOMB_ORDERS + j] = BIT * FORMULA_BITS;
    for (size_t i = 0; i < n; i++) {
        const uint32_t code = zigzag(steps[i]);
        for (int order = 0; order < GOLOMB_ORDERS; order++) lengths[order] += BIT * golomb_bits(code, order);
        if (i % TILE == 0) kernels->cost_places(steps + i, kinds, n - i < TILE ? n - i : TILE, places);
        const uint32_t *cost = tables->cost[places[i % TILE]] + COST_BEFORE;
        for (int j = 0; j < SPREADS; j++) lengths[GOLOMB_ORDERS + j] += cost[SPREAD_WIDTHS[j]];
    }
    int best = 0;
    for (int i = 1; i < GOLOMB_ORDERS + SPREADS; i++) best = lengths[i] < lengths[best] ? i : best;
    return best;
}

/* Differences that are coded by formula, gathered over all pieces. */
typedef struct {
    int32_t *steps;
    uint8_t *widths;
    size_t count;
} Told;

static void tell(const Kernels *kernels, const IntegerTables *tables, BitWriter *writer, Told *told, size_t n) {
    int32_t *steps = told->steps + told->count;
    const int order = order_of(kernels, tables, steps, n);
    bits_put(writer, (uint32_t)(order < GOLOMB_ORDERS ? order : GOLOMB_ORDERS), 2);
    if (order < GOLOMB_ORDERS) {
        for (size_t i = 0; i < n; i++) bits_put_golomb(writer, zigzag(steps[i]), order);
        return;
    }
    bits_put(writer, (uint32_t)(order - GOLOMB_ORDERS), SPREAD_BITS);
    memset(told->widths + told->count, SPREAD_WIDTHS[order - GOLOMB_ORDERS], n);
    told->count += n;
}

static int lanes_log_of(int64_t cost) {
    const int64_t bytes = cost / (8 * BIT);
    return bytes >= 1 << 15 ? 5 : bytes >= 1 << 14 ? 4 : bytes >= 1 << 12 ? 3 : bytes >= 1 << 10 ? 2 : bytes >= 1 << 8;
}

static void widths_of_words(const WidthLayout *layout, uint8_t *widths) {
    for (size_t i = 0; i < layout->count; i++) {
        const size_t start = i ? i * layout->length - layout->first : 0, end = (i + 1) * layout->length - layout->first;
        memset(widths + start, layout->widths[i], (end < layout->words ? end : layout->words) - start);
    }
    if (!layout->row) return;
    /* Corrections of as many rows as make many at once; of longer rows, of a part at a time. */
    int8_t some[CORRECTED_AT_ONCE];
    const size_t rows = layout->row < CORRECTED_AT_ONCE ? CORRECTED_AT_ONCE / layout->row : 0;
    const size_t length = rows ? rows * layout->row : CORRECTED_AT_ONCE;
    size_t column = layout->at / layout->column, inside = layout->at % layout->column, at = layout->at;
    for (size_t i = 0; i < layout->words; i += length) {
        if (!rows || !i) {
            for (size_t j = 0; j < length; j++) {
                some[j] = layout->corrections[column];
                at++;
                if (++inside == layout->column) inside = 0, column++;
                if (at == layout->row) at = column = inside = 0;
            }
        }
        const size_t here = layout->words - i < length ? layout->words - i : length;
        for (size_t j = 0; j < here; j++) {
            const int8_t width = (int8_t)(widths[i + j] + some[j]);
            widths[i + j] = (uint8_t)(width < 1 ? 1 : width > MOST_WIDTH ? MOST_WIDTH : width);
        }
    }
}

static size_t counted_words(const PieceTask *task) {
    size_t words = 0;
    for (size_t i = 0; i < task->pieces; i++) words += is_counted(&task->piece[i]) ? task->piece[i].words : 0;
    return words;
}

/* Most widths and corrections of all pieces, and the most scratch memory that one of them needs. */
static size_t most_told(const PieceTask *task, size_t *widths, size_t *corrections, size_t *scratch) {
    size_t total = 0;
    *widths = *corrections = *scratch = 0;
    for (size_t i = 0; i < task->pieces; i++) {
        if (!is_counted(&task->piece[i])) continue;
        const Rows run = rows_of(&task->piece[i]);
        const size_t some = most_widths(&run), row = run.row <= run.words ? run.row : 0, bytes = layout_scratch(&run);
        *widths = some > *widths ? some : *widths;
        *corrections = row > *corrections ? row : *corrections;
        *scratch = bytes > *scratch ? bytes : *scratch;
        total += some + row;
    }
    return total;
}

/* A residual takes a word of the stream, 47 bits of an escape and 21 low bits at most; a width 62 bits, or that as well. */
size_t pieces_most(const PieceTask *task) {
    size_t widths, corrections, scratch;
    const size_t told = most_told(task, &widths, &corrections, &scratch), n = counted_words(task);
    return 11 * n + 11 * told + 32 * task->pieces + 8 * MAX_LANES + 64;
}

size_t pieces_encode_scratch(const PieceTask *task) {
    size_t widths, corrections, scratch;
    const size_t told = most_told(task, &widths, &corrections, &scratch), n = counted_words(task);
    const size_t longest = n > told ? n : told;
    return rounded(4 * n) + rounded(2 * n) + 2 * rounded(n) + 3 * rounded(longest) + rounded(2 * longest + 64) +
           rounded(4 * told) + rounded(told) + rounded(widths) + rounded(corrections) + scratch + 64;
}

size_t pieces_encode(const Kernels *kernels, const IntegerTables *tables, const PieceTask *task, const void *words,
                     uint8_t *core, uint8_t *marks, bool *any, void *scratch) {
    size_t most, corrections, bytes;
    const size_t told_room = most_told(task, &most, &corrections, &bytes), n = counted_words(task);
    const size_t longest = n > told_room ? n : told_room;
    Arena arena = {scratch};
    int32_t *residuals = take(&arena, 4 * n);
    uint16_t *places = take(&arena, 2 * n);
    uint8_t *kinds = take(&arena, n), *widths = take(&arena, n);
    Coder coder = {.tokens = take(&arena, longest), .tables = take(&arena, longest), .low = take(&arena, longest)};
    coder.stream = take(&arena, 2 * longest + 64);
    coder.room = longest + 16;
    Told told = {.steps = take(&arena, 4 * told_room), .widths = take(&arena, told_room)};
    WidthLayout layout = {.widths = take(&arena, most), .corrections = take(&arena, corrections)};
    void *rest = take(&arena, bytes);

    *any = false;
    memset(marks, 0, task->n);
    uint8_t *end = core + pieces_most(task);
    if (!n) return 0;
    /* The first three bits are the lanes, known at last. */
    BitWriter writer = {.at = core, .end = end};
    bits_put(&writer, 0, 3);
    int before = FIRST_WIDTH;
    int64_t cost = 0;
    size_t start = 0, done = 0;
    for (size_t i = 0; i < task->pieces; i++) {
        const Piece *piece = &task->piece[i];
        if (!is_counted(piece)) {
            start += piece->words;
            continue;
        }
        for (size_t at = 0; at < piece->words; at += TILE) {
            const size_t some = piece->words - at < TILE ? piece->words - at : TILE;
            double base[TILE], points[TILE];
            if (task->reference) {
                kernels->load[task->format](from_word(task->format, task->reference, start + at), some, base);
            }
            const double *beside = task->reference ? base : NULL;
            expect_some(kernels, task, piece, start + at, some, beside, points, kinds + done + at);
            *any |= count_some(kernels, task, piece, words, start + at, some, beside, points, kinds + done + at,
                               residuals + done + at, marks + start + at);
            kernels->cost_places(residuals + done + at, kinds + done + at, some, places + done + at);
        }
        const Rows run = rows_of(piece);
        cost += find_layout(kernels, tables, places + done, &run, before, &layout, rest);
        widths_of_words(&layout, widths + done);
        const bool single = layout.length >= layout.words && !layout.first;
        bits_put(&writer, !single, 1);
        if (single) {
            bits_put_golomb(&writer, zigzag(layout.widths[0] - before), 1);
        } else {
            bits_put_golomb(&writer, (uint32_t)layout.length - 1, LENGTH_ORDER);
            bits_put_golomb(&writer, (uint32_t)layout.first, 0);
            for (size_t j = 0; j < layout.count; j++) {
                told.steps[told.count + j] = layout.widths[j] - (j ? layout.widths[j - 1] : before);
            }
            tell(kernels, tables, &writer, &told, layout.count);
        }
        bits_put(&writer, layout.row > 0, 1);
        if (layout.row) {
            bits_put_golomb(&writer, (uint32_t)layout.row - 1, LENGTH_ORDER);
            bits_put_golomb(&writer, (uint32_t)layout.column - 1, 0);
            bits_put_golomb(&writer, (uint32_t)layout.at, 0);
            for (size_t j = 0; j < layout.columns; j++) {
                told.steps[told.count + j] = layout.corrections[j] - (j ? layout.corrections[j - 1] : 0);
            }
            tell(kernels, tables, &writer, &told, layout.columns);
        }
        before = layout.widths[layout.count - 1];
        start += piece->words;
        done += piece->words;
    }
    bits_close(&writer);
    const int lanes_log = lanes_log_of(cost);
    *core |= (uint8_t)lanes_log;
    uint8_t *at = writer.at;
    if (told.count) {
        /* Behind its length, which takes as many bytes as it needs: moved together afterwards. */
        enum { LENGTH_ROOM = 8 };
        uint8_t *kinds_of_told = coder.tokens; /* read before tokens are written */
        memset(kinds_of_told, EXACT_CLASS, told.count);
        uint8_t *inside = at + LENGTH_ROOM;
        const uint8_t *inside_end = write_integers(kernels, tables, &coder, told.steps, kinds_of_told, told.widths,
                                                   told.count, 1, inside, end);
        const size_t length = (size_t)(inside_end - inside);
        put_uint(&at, end, length);
        memmove(at, inside, length);
        at += length;
    }
    at = write_integers(kernels, tables, &coder, residuals, kinds, widths, n, 1 << lanes_log, at, end);
    return (size_t)(at - core);
}

/* Decoding */

/* Integers of which the tables are known, in coder->tables. */
static const char *read_integers(const Kernels *kernels, const IntegerTables *tables, const Coder *coder,
                                 const uint8_t *low, size_t n, int lanes, const uint8_t *at, const uint8_t *end,
                                 int32_t *residuals) {
    const char *wrong = read_tokens(kernels, coder->tokens, coder->tables, n, tables->slots, lanes, n, &at, end,
                                    (uint8_t *)coder->stream);
    if (wrong) return wrong;
    BitReader reader = {.at = at, .end = end};
    int any_beyond = 0;
    for (size_t i = 0; i < n; i++) residuals[i] = coder->tokens[i] - REACH;
    const uint8_t *escape = coder->tokens, *tokens_end = coder->tokens + n;
    while ((escape = memchr(escape, ESCAPE_TOKEN, (size_t)(tokens_end - escape)))) {
        /* What has more than 31 bits is out of range, whatever it is. */
        const uint32_t code = bits_take_golomb(&reader, ESCAPE_ORDER);
        if (reader.failed) return "its escapes end too early";
        residuals[escape++ - coder->tokens] = unzigzag(code);
    }
    if (!bits_end(&reader, &at)) return "its escapes are not filled up with zeros";
    reader = (BitReader){.at = at, .end = end};
    for (size_t i = 0; low && (i += none_of(low + i, n - i)) < n; i++) {
        const int64_t residual = residuals[i] * ((int64_t)1 << low[i]) + bits_take(&reader, low[i]);
        const bool is_beyond = residual >= INTEGER_LIMIT || residual <= -INTEGER_LIMIT;
        residuals[i] = is_beyond ? INTEGER_LIMIT : (int32_t)residual;
    }
    for (size_t i = 0; i < n; i++) any_beyond |= residuals[i] >= INTEGER_LIMIT || residuals[i] <= -INTEGER_LIMIT;
    if (any_beyond) return "a residual is out of range";
    if (!bits_end(&reader, &at)) return "its low bits end too early, or are not filled up with zeros";
    return at == end ? NULL : "something follows its last field";
}

/* A piece's layout, of which differences may still have to be decoded: those whose spread is not 0. */
typedef struct {
    WidthLayout layout;
    uint8_t spreads[2];
    int32_t *steps[2];
} Shape;

static bool read_told(BitReader *reader, int32_t *steps, size_t count, uint8_t *spread) {
    const int order = (int)bits_take(reader, 2);
    *spread = 0;
    if (order == GOLOMB_ORDERS) {
        *spread = SPREAD_WIDTHS[bits_take(reader, SPREAD_BITS)];
        return !reader->failed;
    }
    for (size_t i = 0; i < count; i++) {
        const uint32_t code = bits_take_golomb(reader, order);
        if (reader->failed) return false;
        steps[i] = unzigzag(code);
    }
    return true;
}

static const char *read_shape(BitReader *reader, size_t words, Shape *shape, int32_t **steps) {
    WidthLayout *layout = &shape->layout;
    *layout = (WidthLayout){.words = words, .length = words, .count = 1};
    *shape->spreads = shape->spreads[1] = 0;
    shape->steps[0] = *steps;
    if (bits_take(reader, 1)) {
        layout->length = (size_t)bits_take_golomb(reader, LENGTH_ORDER) + 1;
        layout->first = bits_take_golomb(reader, 0);
        if (reader->failed || layout->first >= layout->length) return "a run does not fit its piece";
        layout->count = (layout->first + words - 1) / layout->length + 1;
        if (!read_told(reader, *steps, layout->count, &shape->spreads[0])) return "its widths end too early";
    } else {
        **steps = unzigzag(bits_take_golomb(reader, 1));
    }
    *steps += layout->count;
    if (!bits_take(reader, 1)) return reader->failed ? "its widths end too early" : NULL;
    layout->row = (size_t)bits_take_golomb(reader, LENGTH_ORDER) + 1;
    layout->column = (size_t)bits_take_golomb(reader, 0) + 1;
    layout->at = bits_take_golomb(reader, 0);
    if (reader->failed || layout->row > words || layout->at >= layout->row) return "rows do not fit their piece";
    layout->columns = (layout->row + layout->column - 1) / layout->column;
    shape->steps[1] = *steps;
    if (!read_told(reader, *steps, layout->columns, &shape->spreads[1])) return "its corrections end too early";
    *steps += layout->columns;
    return NULL;
}

size_t pieces_decode_scratch(const PieceTask *task) {
    /* Each word may have a width and a correction of its own. */
    const size_t n = counted_words(task), told = 2 * n;
    return rounded(task->pieces * sizeof(Shape)) + rounded(4 * told) + rounded(told) + 2 * rounded(n) + rounded(4 * n) +
           2 * rounded(told) + rounded(stream_room(told)) + rounded(4 * told) + 2 * rounded(n) + rounded(8 * n) + 64;
}

const char *pieces_decode(const Kernels *kernels, const IntegerTables *tables, const PieceTask *task, const uint8_t *core,
                          size_t length, void *words, void *scratch) {
    const size_t n = counted_words(task), told_room = 2 * n, w = (size_t)LAYOUTS[task->format].word_bytes;
    const uint8_t *end = core + length;
    Arena arena = {scratch};
    Shape *shapes = take(&arena, task->pieces * sizeof *shapes);
    int32_t *steps = take(&arena, 4 * told_room), *next = steps;
    uint8_t *widths_of_runs = take(&arena, told_room);
    uint8_t *widths = take(&arena, n), *kinds = take(&arena, n);
    int32_t *residuals = take(&arena, 4 * n);
    Coder coder = {.tokens = take(&arena, told_room), .tables = take(&arena, told_room)};
    coder.stream = take(&arena, stream_room(told_room));
    int32_t *decoded = take(&arena, 4 * told_room);
    uint8_t *low = take(&arena, n);
    double *points = take(&arena, 8 * n);

    for (size_t i = 0, start = 0; i < task->pieces; start += task->piece[i++].words) {
        const size_t bytes = task->piece[i].words * w;
        uint8_t *out = (uint8_t *)words + start * w;
        if (task->piece[i].kind == PIECE_SAME) {
            memcpy(out, from_word(task->format, task->reference, start), bytes);
        } else if (task->piece[i].kind == PIECE_APART) {
            memset(out, 0, bytes);
        }
    }
    if (!n) return length ? "it has bytes of no integers" : NULL;
    BitReader reader = {.at = core, .end = end};
    const int lanes_log = (int)bits_take(&reader, 3);
    if (lanes_log > MOST_LANES_LOG) return "it has too many lanes";
    for (size_t i = 0; i < task->pieces; i++) {
        if (!is_counted(&task->piece[i])) continue;
        const char *wrong = read_shape(&reader, task->piece[i].words, &shapes[i], &next);
        if (wrong) return wrong;
    }
    const uint8_t *at;
    if (!bits_end(&reader, &at)) return "its head is not filled up with zeros";

    size_t told = 0;
    for (size_t i = 0; i < task->pieces; i++) {
        if (!is_counted(&task->piece[i])) continue;
        const size_t counts[2] = {shapes[i].layout.count, shapes[i].layout.columns};
        for (int j = 0; j < 2; j++) {
            if (!shapes[i].spreads[j]) continue;
            memset(coder.tables + told, kind_of_width(shapes[i].spreads[j], EXACT_CLASS), counts[j]);
            told += counts[j];
        }
    }
    if (told) {
        size_t inside;
        if (!take_uint(&at, end, &inside) || inside > (size_t)(end - at)) return "its widths end too early";
        const char *wrong = read_integers(kernels, tables, &coder, NULL, told, 1, at, at + inside, decoded);
        if (wrong) return wrong;
        at += inside;
    }

    const int32_t *from = decoded;
    int before = FIRST_WIDTH;
    size_t start = 0, done = 0;
    bool any_low = false;
    for (size_t i = 0; i < task->pieces; start += task->piece[i++].words) {
        const Piece *piece = &task->piece[i];
        if (!is_counted(piece)) continue;
        WidthLayout *layout = &shapes[i].layout;
        layout->widths = widths_of_runs;
        layout->corrections = (int8_t *)widths_of_runs + layout->count;
        for (int j = 0; j < 2; j++) {
            const size_t count = j ? layout->columns : layout->count;
            const int least = j ? LEAST_CORRECTION : 1, most = j ? LEAST_CORRECTION + CORRECTIONS - 1 : MOST_WIDTH;
            const int32_t *some = shapes[i].spreads[j] ? from : shapes[i].steps[j];
            int64_t value = j ? 0 : before;
            for (size_t k = 0; k < count; k++) {
                value += some[k];
                if (value < least || value > most) return "a width is out of range";
                widths_of_runs[(j ? layout->count : 0) + k] = (uint8_t)value;
            }
            if (shapes[i].spreads[j]) from += count;
            if (!j) before = (int)value;
        }
        widths_of_words(layout, widths + done);
        for (size_t tile = 0; tile < piece->words; tile += TILE) {
            const size_t some = piece->words - tile < TILE ? piece->words - tile : TILE;
            double base[TILE];
            if (task->reference) {
                kernels->load[task->format](from_word(task->format, task->reference, start + tile), some, base);
            }
            expect_some(kernels, task, piece, start + tile, some, base, points + done + tile, kinds + done + tile);
        }
        any_low |= kernels->kinds_of_widths(widths + done, kinds + done, piece->words, coder.tables + done, low + done);
        done += piece->words;
    }
    const char *wrong = read_integers(kernels, tables, &coder, any_low ? low : NULL, n, 1 << lanes_log, at, end, residuals);
    if (wrong) return wrong;

    start = done = 0;
    for (size_t i = 0; i < task->pieces; start += task->piece[i++].words) {
        const Piece *piece = &task->piece[i];
        if (!is_counted(piece)) continue;
        for (size_t tile = 0; tile < piece->words; tile += TILE) {
            const size_t some = piece->words - tile < TILE ? piece->words - tile : TILE;
            double base[TILE], points[TILE];
            if (task->reference) {
                kernels->load[task->format](from_word(task->format, task->reference, start + tile), some, base);
            }
            const double *beside = task->reference ? base : NULL;
            expect_some(kernels, task, piece, start + tile, some, base, points, kinds + done + tile);
            if (!restore_some(kernels, task, piece, words, start + tile, some, beside, points, kinds + done + tile,
                              residuals + done + tile)) {
                return "a step is out of range";
            }
        }
        done += piece->words;
    }
    return NULL;
}
