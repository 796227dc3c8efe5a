#include "fit.h"

#include <math.h>
#include <stdbool.h>

enum { LEAST_WORDS = 64, FIT_WORDS = MOST_RATIOS / 2, LEAST_RATIOS = 32, COST_BLOCKS = 32, COST_WORDS = 64 };
enum { SUSPECTS = 64, SUSPECT_WORDS = 32, WITNESSES = 8, FIRST_WITNESSES = 32 };
enum { SHORT_STEPS = 64, LEAST_UNITS = 4, MOST_DECREMENTS = 64, LONGEST_SHIFT = 128 };
enum { MOST_SUSPECTS = 2 * SUSPECTS, MOST_WITNESSED = WITNESSES * SUSPECT_WORDS };

/* What another predictor may leave of what there is without it. */
static const double WORTH = 0.99;

static const double AGREEMENT = 0.6, FIRST_AGREEMENT = 0.3;

/* What a selector, and the constants of a predictor, cost in tokens: about two a bit. */
static const double CONSTANTS_PRICE = 2 * 80;
static const uint64_t SELECTOR_PRICE[MOST_FITTED] = {0, 2, 4};

static const double BETAS[] = {0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999};

static inline int is_special(Format format, uint32_t word) {
    const Layout layout = LAYOUTS[format];
    return (((word >> layout.mantissa) + 1) & layout.level_mask) <= 1;
}

/* Of a word that is not special. */
static inline double number_of(Format format, uint32_t word) {
    if (format == FORMAT_F32) return float_of_bits(word);
    if (format == FORMAT_BF16) return float_of_bits(word << 16);
    return float_of_bits((word & 0x8000) << 16 | (((word & 0x7FFF) << 13) + (112u << 23)));
}

/* The middle ratio of words that moved to what they were, of some pairs; 0 where it is of no use as a factor. */
static double find_factor(const Kernels *kernels, Format format, const void *new_words, const void *old_words, size_t n) {
    union {
        uint32_t plain[MOST_RATIOS];
        uint16_t half[MOST_RATIOS];
    } one, other;
    double target[MOST_RATIOS], base[MOST_RATIOS];
    const size_t step = (n / FIT_WORDS) | 1;
    size_t found = 0;
    one.plain[0] = other.plain[0] = 0; /* for compilers that cannot tell that there are words */
    for (size_t i = 0; i < n; i += step) {
        const uint32_t after = word_at(format, new_words, i), before = word_at(format, old_words, i);
        if (format == FORMAT_F32) {
            one.plain[found] = after;
            other.plain[found] = before;
        } else {
            one.half[found] = (uint16_t)after;
            other.half[found] = (uint16_t)before;
        }
        found += (after != before) & !(is_special(format, after) | is_special(format, before));
    }
    if (found < LEAST_RATIOS) return 0;
    kernels->load[format](&one, found, target);
    kernels->load[format](&other, found, base);
    const double factor = kernels->middle_ratio(target, base, found);
    const double nearest = format == FORMAT_F32 ? 0 : ldexp(1, -LAYOUTS[format].mantissa);
    return fabs(factor - 1) <= nearest || !isfinite(factor) ? 0 : factor;
}

/* A block whose words all changed by about one factor. */
typedef struct {
    size_t start;
    double middle, spread;
} Suspect;

/* Of up to SUSPECT_WORDS words of 16 bits how many are so many places nearer to zero than they were, and whether one that is
   not special, nor was, is further from zero. */
typedef struct {
    int nearer;
    bool any_further;
} Moves;

static Moves moves_of(const uint16_t *after, const uint16_t *before, int words, Layout layout) {
    const uint16_t one = (uint16_t)(1u << layout.mantissa), higher = (uint16_t)((layout.level_mask - 1) << layout.mantissa);
    uint16_t nearer = 0, further = 0;
    for (int i = 0; i < words; i++) {
        const uint16_t now = after[i] & 0x7FFF, was = before[i] & 0x7FFF;
        /* Level 0 and the highest one are the two that have none of the higher bits when one is added. */
        const uint16_t usual = (((now + one) & higher) != 0) & (((was + one) & higher) != 0);
        nearer = (uint16_t)(nearer + ((int16_t)(was - now) >= LEAST_UNITS));
        further |= usual & (now > was);
    }
    return (Moves){nearer, further};
}

static bool is_suspect(Format format, const void *new_words, const void *old_words, int words, Suspect *suspect) {
    const double limit = ldexp(1, (format == FORMAT_F32 ? 5 : 2) - LAYOUTS[format].mantissa);
    double ratios[SUSPECT_WORDS], ordered[SUSPECT_WORDS];
    const double most = format == FORMAT_F32 ? 1 : 1 - ldexp(LEAST_UNITS, -LAYOUTS[format].mantissa);
    double lowest = INFINITY, highest = 0;
    int present = 0, equal = 0, not_above = 0, below_most = 0;
    if (format != FORMAT_F32) { /* nearly all searches of words of 16 bits end here */
        const uint16_t *after = (const uint16_t *)new_words + suspect->start;
        const uint16_t *before = (const uint16_t *)old_words + suspect->start;
        const Moves moves = moves_of(after, before, words, LAYOUTS[format]);
        /* Half of half of them must be below `most`: of two places the nearer one to zero is no further from its neighbour,
           so a ratio further below 1 than a step is wide needs as many. And none may be further from a middle below that
           than the limit is: one that grew, or changed its sign, would. */
        if (4 * moves.nearer < words - 1 || moves.any_further) return false;
    }
    for (int i = 0; i < words; i++) {
        const uint32_t after = word_at(format, new_words, suspect->start + (size_t)i);
        const uint32_t before = word_at(format, old_words, suspect->start + (size_t)i);
        equal += after == before;
        if (is_special(format, after) | is_special(format, before)) continue;
        ratios[present] = number_of(format, after) / number_of(format, before);
        lowest = ratios[present] < lowest ? ratios[present] : lowest;
        highest = ratios[present] > highest ? ratios[present] : highest;
        below_most += ratios[present] < most;
        not_above += ratios[present++] <= 1;
        /* Nearly all of words of 32 bits end here: two ratios differ by more than ones do that are within the limit of one
           middle. */
        if (present == 2 && fabs(ratios[1] / ratios[0] - 1) > 4 * limit) return false;
    }
    if (present < words / 2 || present <= 4) return false;
    if (present == words && 2 * equal > present) return false; /* the middle ratio is 1 */
    if (!(not_above > AGREEMENT * present)) return false;
    /* Where the middle one will be no less than `most`, or two are further apart than both can be from any middle, nothing
       is put in order, which would take most of the time. */
    if (below_most <= (present - 1) / 2) return false;
    if (!(lowest > 0) || highest > lowest * ((1 + limit) / (1 - limit) + 1e-9)) return false;
    for (int i = 0; i < present; i++) {
        int at = i;
        for (; at && ordered[at - 1] > ratios[i]; at--) ordered[at] = ordered[at - 1];
        ordered[at] = ratios[i];
    }
    suspect->middle = ordered[(present - 1) / 2];
    if (!(suspect->middle > 0 && suspect->middle < most)) return false;
    suspect->spread = 0;
    for (int i = 0; i < present; i++) {
        double away = fabs(ratios[i] / suspect->middle - 1);
        if (away > suspect->spread) suspect->spread = away;
    }
    return suspect->spread < limit;
}

/* Words that a decay must reproduce. */
typedef struct {
    Format format;
    int count;
    uint32_t after[MOST_WITNESSED], before[MOST_WITNESSED]; /* 16-bit words fill the first half */
} Witnesses;

static double share_agreeing(const Kernels *kernels, const Predictor *decay, const Witnesses *witnesses, int count) {
    uint32_t predictions[MOST_WITNESSED];
    const void *references[1] = {witnesses->before};
    kernels->predict[witnesses->format](decay, references, (size_t)count, predictions);
    int agree = 0;
    for (int i = 0; i < count; i++) {
        agree += word_at(witnesses->format, predictions, (size_t)i) ==
                 word_at(witnesses->format, witnesses->after, (size_t)i);
    }
    return (double)agree / count;
}

static bool is_witnessed(const Kernels *kernels, const Predictor *decay, const Witnesses *witnesses) {
    int first = witnesses->count < FIRST_WITNESSES ? witnesses->count : FIRST_WITNESSES;
    if (!(share_agreeing(kernels, decay, witnesses, first) > FIRST_AGREEMENT)) return false;
    return share_agreeing(kernels, decay, witnesses, witnesses->count) > AGREEMENT;
}

static bool find_known_decay(const Kernels *kernels, const Witnesses *witnesses, double ratio, Predictor *decay) {
    const int longest = witnesses->format == FORMAT_F32 ? MAX_REPEATS : SHORT_STEPS;
    const double unit = ldexp(1, -LAYOUTS[witnesses->format].mantissa);
    for (size_t i = 0; i < sizeof BETAS / sizeof *BETAS; i++) {
        for (int fused = 0; fused < 2; fused++) {
            const double c = fused ? 1 - (double)(float)(1 - BETAS[i]) : (double)(float)BETAS[i];
            double powers[MAX_REPEATS + 1], power = c;
            int guess = 1;
            for (powers[1] = c; guess <= longest && power > ratio; guess++) {
                power *= c;
                if (guess < MAX_REPEATS) powers[guess + 1] = power;
            }
            if (guess < longest) powers[guess + 1] = power * c;
            const int tries[3] = {guess, guess - 1, guess + 1};
            for (int j = 0; j < 3; j++) {
                const int steps = tries[j];
                if (steps < 1 || steps > longest) continue;
                if (fabs(powers[steps] / ratio - 1) > (steps + 2) * unit) continue;
                *decay = (Predictor){.kind = DECAYED, .runs = 1, .run = {{c, (uint32_t)steps}}};
                if (is_witnessed(kernels, decay, witnesses)) return true;
            }
        }
    }
    return false;
}

static double share_equal(const float *one, const float *other, int count) {
    int equal = 0;
    for (int i = 0; i < count; i++) equal += one[i] == other[i];
    return (double)equal / count;
}

static bool has_passed(const float *now, const float *target, int count) {
    int smaller = 0;
    for (int i = 0; i < count; i++) smaller += fabsf(now[i]) < fabsf(target[i]);
    return (double)smaller / count > AGREEMENT;
}

/* `states` has room for 2 * MAX_REPEATS + 1 times the witnesses. */
static bool find_weight_decay(const Witnesses *witnesses, double ratio, Predictor *decay, float *states) {
    const double shift = (1 - ratio) * (1 << 24);
    const int count = witnesses->count;
    double most = AGREEMENT;
    float target[MOST_WITNESSED];
    if (witnesses->format != FORMAT_F32 || !(0.5 <= shift && shift <= MOST_DECREMENTS * MAX_REPEATS)) return false;
    memcpy(target, witnesses->after, (size_t)count * sizeof *target);
    memcpy(states, witnesses->before, (size_t)count * sizeof *states);
    for (int decrement = 1; decrement <= MOST_DECREMENTS; decrement++) {
        if (decrement * MAX_REPEATS < shift / 2) continue;
        const float factor = (float)(1 - decrement * 0x1p-24);
        int reached = 1; /* states, the first of which is where decay begins */
        while (reached <= MAX_REPEATS && !has_passed(states + (reached - 1) * count, target, count)) {
            float *now = states + reached * count;
            for (int i = 0; i < count; i++) now[i] = now[i - count] * factor;
            double agreed = share_equal(now, target, count);
            if (agreed > most) {
                *decay = (Predictor){.kind = DECAYED, .runs = 1, .run = {{factor, (uint32_t)reached}}};
                most = agreed;
            }
            reached++;
        }
        if (shift > LONGEST_SHIFT || most == 1 || reached < 3) continue;
        float *table = states + (MAX_REPEATS + 1) * count;
        for (int sign = -1; sign <= 1; sign += 2) {
            if (decrement + sign == 0) continue;
            const float more = (float)(1 - (decrement + sign) * 0x1p-24);
            const int rows = reached - 2;
            memcpy(table, states + count, (size_t)(rows * count) * sizeof *table);
            for (int steps = 1; steps < MAX_REPEATS - reached; steps++) {
                for (int i = 0; i < rows * count; i++) table[i] *= more;
                int best = 0;
                double agreed = -1;
                for (int row = 0; row < rows; row++) {
                    double some = share_equal(table + row * count, target, count);
                    if (some > agreed) {
                        agreed = some;
                        best = row;
                    }
                }
                if (agreed > most) {
                    *decay = (Predictor){.kind = DECAYED,
                                         .runs = 2,
                                         .run = {{factor, (uint32_t)(1 + best)}, {more, (uint32_t)steps}}};
                    most = agreed;
                }
                if (has_passed(table, target, count)) break;
            }
        }
    }
    return most > AGREEMENT;
}

static size_t suspects_apart(size_t blocks) { return blocks / SUSPECTS > 1 ? blocks / SUSPECTS : 1; }

static bool find_decay(const Kernels *kernels, Format format, const void *new_words, const void *old_words, size_t n,
                       size_t length, Predictor *decay, void *scratch) {
    const size_t blocks = n / length, step = suspects_apart(blocks);
    const int words = length < SUSPECT_WORDS ? (int)length : SUSPECT_WORDS;
    Suspect suspects[WITNESSES];
    int found = 0;
    for (size_t block = 0; block < blocks; block += step) {
        Suspect suspect = {.start = block * length};
        if (!is_suspect(format, new_words, old_words, words, &suspect)) continue;
        /* Kept are those of least spread, the first ones among equals. */
        int at = found < WITNESSES ? found++ : WITNESSES;
        if (at == WITNESSES && !(suspect.spread < suspects[--at].spread)) continue;
        for (; at && suspects[at - 1].spread > suspect.spread; at--) suspects[at] = suspects[at - 1];
        suspects[at] = suspect;
    }
    if (!found) return false;
    Witnesses witnesses = {.format = format};
    double middles[WITNESSES];
    for (int i = 0; i < found; i++) {
        int at = i;
        for (; at && middles[at - 1] > suspects[i].middle; at--) middles[at] = middles[at - 1];
        middles[at] = suspects[i].middle;
        for (int j = 0; j < words; j++) {
            uint32_t after = word_at(format, new_words, suspects[i].start + (size_t)j);
            uint32_t before = word_at(format, old_words, suspects[i].start + (size_t)j);
            if (is_special(format, after) | is_special(format, before) | (after == before)) continue;
            if (format == FORMAT_F32) {
                witnesses.after[witnesses.count] = after;
                witnesses.before[witnesses.count++] = before;
            } else {
                ((uint16_t *)witnesses.after)[witnesses.count] = (uint16_t)after;
                ((uint16_t *)witnesses.before)[witnesses.count++] = (uint16_t)before;
            }
        }
    }
    const double ratio = middles[found / 2];
    return find_known_decay(kernels, &witnesses, ratio, decay) ||
           find_weight_decay(&witnesses, ratio, decay, scratch);
}

/* What blocks take that may choose, in tokens, by a sample of them in which each is `part` of itself. */
static double total_cost(const uint32_t *costs, size_t blocks, unsigned chosen, int candidates, double part,
                         double price) {
    uint64_t tokens = 0;
    int paid = 0;
    for (size_t i = 0; i < blocks; i++) {
        uint32_t least = UINT32_MAX;
        for (int j = 0; j < candidates; j++) {
            uint32_t cost = costs[(size_t)j * blocks + i];
            if (chosen >> j & 1 && cost < least) least = cost;
        }
        tokens += least;
    }
    for (int j = 1; j < candidates; j++) paid += chosen >> j & 1;
    const uint64_t selectors = SELECTOR_PRICE[__builtin_popcount(chosen) - 1] * blocks;
    return (double)tokens + part * (double)selectors + price * paid;
}

static unsigned select_predictors(const uint32_t *costs, size_t blocks, int candidates, double part, double share) {
    const double price = CONSTANTS_PRICE * share;
    unsigned best = 0;
    double least = INFINITY;
    for (;;) {
        unsigned better = 0;
        least *= WORTH;
        for (int j = 0; j < candidates; j++) {
            if (best >> j & 1) continue;
            double cost = total_cost(costs, blocks, best | 1u << j, candidates, part, price);
            if (cost < least) {
                least = cost;
                better = best | 1u << j;
            }
        }
        if (!better) return best;
        best = better;
    }
}

static size_t rounded(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

size_t fit_scratch(Format format, size_t n) {
    const Task task = {.format = format, .n = n, .predictors = MOST_FITTED};
    const size_t decays = (2 * MAX_REPEATS + 1) * MOST_WITNESSED * sizeof(float);
    const size_t costs = encode_scratch(&task) + 2 * rounded(n * (size_t)LAYOUTS[format].word_bytes) +
                         rounded(MOST_FITTED * sizeof(uint32_t) * n);
    return costs > decays ? costs : decays;
}

int fit(const Kernels *kernels, Format format, const void *new_words, const void *old_words, size_t n, size_t length,
        double share, Predictor predictors[MOST_FITTED], void *scratch) {
    const size_t w = (size_t)LAYOUTS[format].word_bytes;
    Predictor candidates[MOST_FITTED] = {{.kind = PREVIOUS}};
    int count = 1;
    double part = 1;
    if (n < LEAST_WORDS || !memcmp(new_words, old_words, n * w)) {
        predictors[0] = candidates[0];
        return 1;
    }
    /* Where decays are looked for: memory that is far apart, and asked for while the factor is found. */
    for (size_t block = 0; block < n / length; block += suspects_apart(n / length)) {
        __builtin_prefetch((const uint8_t *)new_words + block * length * w);
        __builtin_prefetch((const uint8_t *)old_words + block * length * w);
    }
    const double factor = find_factor(kernels, format, new_words, old_words, n);
    if (factor != 0) candidates[count++] = (Predictor){.kind = SCALED, .a = factor};
    uint8_t *at = scratch;
    if (find_decay(kernels, format, new_words, old_words, n, length, &candidates[count], scratch)) {
        count++;
    } else if (count == 1) {
        predictors[0] = candidates[0];
        return 1;
    } else if (n / length) {
        const size_t all = n / length, step = all / COST_BLOCKS ? all / COST_BLOCKS : 1;
        const size_t words = length < COST_WORDS ? length : COST_WORDS, bytes = words * w;
        uint8_t *some_new = at, *some_old = some_new + rounded(n * w);
        size_t taken = 0;
        for (size_t i = 0; i < all; i += step, taken++) {
            memcpy(some_new + taken * bytes, (const uint8_t *)new_words + i * length * w, bytes);
            memcpy(some_old + taken * bytes, (const uint8_t *)old_words + i * length * w, bytes);
        }
        new_words = some_new;
        old_words = some_old;
        at = some_old + rounded(n * w);
        n = taken * words;
        part = (double)words / (double)length;
        share *= part / (double)step;
        length = words;
    }
    const void *references[1] = {old_words};
    const Task task = {.format = format, .n = n, .predictor = candidates, .predictors = count, .references = references};
    const size_t blocks = (n + length - 1) / length;
    uint32_t *costs = (uint32_t *)(void *)at;
    block_costs(kernels, &task, new_words, length, costs, at + rounded(MOST_FITTED * sizeof *costs * blocks));
    const unsigned chosen = select_predictors(costs, blocks, count, part, share);
    int kept = 0;
    for (int j = 0; j < count; j++) {
        if (chosen >> j & 1) predictors[kept++] = candidates[j];
    }
    return kept;
}
