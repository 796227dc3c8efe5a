#include "glance.h"

#include <math.h>

enum { SHORT_BITS = 3, SHORT_MASK = 7, SAMPLE = 4096, FEW_WORDS = 64 };
enum { LEAST_WORDS = 64, LEAST_EQUAL = 256, LEAST_MOVED = 8, LEAST_ULPS = 4, NEAR_SHARE = 4 };
enum { WELL_BELOW = 3, LEAST_DISTANCE = 3, LEAST_WELL_BELOW = 16, PARTS = 3 };

static const double FEW_MARGIN = 0.3, COARSE_SHARE = 0.75, ON_STEP = 1.0 / 16, ON_STEPS_SHARE = 5.0 / 8;

/* Words that are not 0, and those of them that end in zeros. */
typedef struct {
    size_t present, cut;
} Ends;

static inline void ends_add(Ends *ends, uint32_t word) {
    ends->present += word != 0;
    ends->cut += word && !(word & SHORT_MASK);
}

/* Of words that training made an eighth are cut by chance; a quarter is asked for. */
__attribute__((always_inline)) static inline bool are_short(const Format format, const void *words, size_t n,
                                                            const Few *few) {
    uint32_t present = 0, cut = 0;
    for (size_t i = 0; i < few->count; i++) {
        present += few->words[i] != 0;
        cut += (few->words[i] != 0) & !(few->words[i] & SHORT_MASK);
    }
    if (2 * cut > present) return true;
    if (16 * cut <= 3 * present) return false;
    const size_t step = n > SAMPLE ? n / SAMPLE | 1 : 1;
    Ends ends = {0, 0};
    for (size_t i = 0; i < n; i += step) ends_add(&ends, word_at(format, words, i));
    return 4 * ends.cut > ends.present;
}

static inline uint32_t distance(uint32_t one, uint32_t other) { return one > other ? one - other : other - one; }

static bool may_be_anchored(const Few *few) {
    uint32_t equal = 0, near = 0;
    for (size_t i = 0; i < few->count; i++) equal += few->words[i] == few->reference[i];
    const uint32_t count = (uint32_t)few->count, moved = count - equal;
    if (equal * LEAST_EQUAL < count || moved < LEAST_MOVED) return false;
    const double ratio = (double)moved / (double)(4 * (equal ? equal : 1));
    /* A distance is below a number where it is below the next whole one. */
    const uint32_t least = (uint32_t)ceil(LEAST_ULPS / 2 * (ratio > 1 ? ratio : 1));
    for (size_t i = 0; i < few->count; i++) near += distance(few->words[i], few->reference[i]) < least;
    return 2 * (near - equal) <= moved;
}

static inline double power_of_two(int exponent) {
    const uint64_t bits = (uint64_t)(1023 + exponent) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* The value of a word that is no infinity or NaN, in units of the last place at a level. */
static inline double in_units(const Layout layout, uint32_t word, uint32_t level) {
    const uint32_t own = word >> layout.mantissa & layout.level_mask, below = word & ((1u << layout.mantissa) - 1);
    const double value = (own ? below | 1u << layout.mantissa : below) * power_of_two((int)(own ? own : 1) - (int)level);
    return word >> layout.mantissa > layout.level_mask ? -value : value;
}

/* Of words well below the typical level, whether few moved by multiples of one step. */
static bool are_off_steps(const Layout layout, const Few *few, uint32_t typical) {
    double moved[FEW], least = INFINITY;
    size_t count = 0;
    for (size_t i = 0; i < few->count; i++) {
        const uint32_t level = few->words[i] >> layout.mantissa & layout.level_mask;
        const uint32_t before = few->reference[i] >> layout.mantissa & layout.level_mask;
        if ((level > before ? level : before) + WELL_BELOW > typical) continue;
        const double apart = fabs(in_units(layout, few->words[i], typical) - in_units(layout, few->reference[i], typical));
        if (apart < LEAST_DISTANCE) continue;
        moved[count++] = apart;
        least = apart < least ? apart : least;
    }
    if (count < LEAST_WELL_BELOW) return false;
    size_t most = 0;
    for (int part = 1; part <= PARTS; part++) {
        size_t on_steps = 0;
        for (size_t i = 0; i < count; i++) {
            const double steps = moved[i] * part / least;
            on_steps += fabs(steps - rint(steps)) <= ON_STEP;
        }
        most = on_steps > most ? on_steps : most;
    }
    return (double)most < ON_STEPS_SHARE * (double)count;
}

/* The middle one of the words' levels. */
static uint32_t typical_level(const Layout layout, const Few *few) {
    enum { AT_ONCE = 4 }; /* counts that do not wait for one another */
    uint16_t times[AT_ONCE][256] = {{0}};
    for (size_t i = 0; i < few->count; i++) times[i % AT_ONCE][few->words[i] >> layout.mantissa & layout.level_mask]++;
    for (uint32_t typical = 0, below = 0;; typical++) {
        for (int i = 0; i < AT_ONCE; i++) below += times[i][typical];
        if (below > few->count / 2) return typical;
    }
}

static bool move_by_no_step(const Layout layout, const Few *few) {
    const uint32_t typical = typical_level(layout, few);
    if (are_off_steps(layout, few, typical)) return true; /* which is told by fewer words */
    uint32_t moved = 0, near = 0;
    for (size_t i = 0; i < few->count; i++) {
        const uint32_t level = few->words[i] >> layout.mantissa & layout.level_mask;
        const uint32_t before = few->reference[i] >> layout.mantissa & layout.level_mask;
        const uint32_t larger = level > before ? level : before, apart = distance(few->words[i], few->reference[i]);
        const uint32_t lower = larger > typical ? 0 : typical - larger;
        moved += apart != 0;
        near += (apart != 0) & (larger <= typical) & (apart >> (lower < 31 ? lower : 31) < LEAST_ULPS / 2);
    }
    return NEAR_SHARE * near > moved;
}

__attribute__((always_inline)) static inline bool may_be_coarse(const Format format, const void *words, size_t n) {
    const int mantissa = LAYOUTS[format].mantissa;
    const double enough = mantissa + 1 + 1.5 - FEW_MARGIN - COARSE_SHARE * (mantissa + 3);
    const size_t step = n / FEW_WORDS | 1;
    int zeros = 0, present = 0;
    for (size_t i = 0; i < n; i += step) {
        const uint32_t word = word_at(format, words, i);
        if (!word) continue;
        const int some = __builtin_ctz(word);
        zeros += some < mantissa ? some : mantissa;
        present++;
    }
    return zeros > enough * present;
}

__attribute__((always_inline)) static inline int signs_of(const Format format, const void *words, const void *reference,
                                                          size_t n, bool alone) {
    Few few;
    few.count = n < FEW ? n : FEW;
    take_few(format, words, n, few.words);
    if (reference) take_few(format, reference, n, few.reference);
    int signs = are_short(format, words, n, &few) ? SHORT_SIGN : 0;
    if (reference && may_be_anchored(&few) && !(alone && move_by_no_step(LAYOUTS[format], &few))) {
        signs |= ANCHORED_SIGN;
    }
    if (n >= LEAST_WORDS && may_be_coarse(format, words, n)) signs |= COARSE_SIGN;
    return signs;
}

int glance(Format format, const void *words, const void *reference, size_t n, bool alone) {
    return format == FORMAT_F32    ? signs_of(FORMAT_F32, words, reference, n, alone)
           : format == FORMAT_BF16 ? signs_of(FORMAT_BF16, words, reference, n, alone)
                                   : signs_of(FORMAT_F16, words, reference, n, alone);
}

bool are_noise(Format format, const void *words, size_t n) {
    enum { PROBED_BYTES = 1 << 13, FEW_PROBED = 256, MANY = 150 };
    const size_t width = (size_t)LAYOUTS[format].word_bytes, most = PROBED_BYTES / width;
    const size_t count = n < most ? n : most, first = (n - count) / 2;
    bool seen[2][256] = {{0}};
    bool have_sign = false, have_none = false;
    for (size_t i = 0; i < count; i += most / FEW_PROBED) {
        const uint32_t word = word_at(format, words, first + i);
        const bool sign = word >> (8 * width - 1);
        have_sign |= sign;
        have_none |= !sign;
        seen[0][word & 0xFF] = true;
        seen[1][word >> 8 & 0xFF] = true;
    }
    if (!have_sign || !have_none) return false;
    for (size_t place = 0; place < width / 2; place++) {
        size_t values = 0;
        for (int value = 0; value < 256; value++) values += seen[place][value];
        if (values < MANY) return false;
    }
    return true;
}

/* The exponent of the highest bit that is set, and how far it is to the lowest; what is no number has all its bits. */
static inline void find_ends(const Layout layout, uint32_t word, int *highest, int *length) {
    const int bias = (int)(layout.level_mask >> 1);
    const uint32_t level = word >> layout.mantissa & layout.level_mask, below = word & ((1u << layout.mantissa) - 1);
    if (level == layout.level_mask) {
        *highest = 0;
        *length = layout.mantissa;
        return;
    }
    const uint32_t odd = level ? below | 1u << layout.mantissa : below;
    const int top = floor_log2(odd);
    *highest = (level ? (int)level : 1) - bias - layout.mantissa + top;
    *length = top - __builtin_ctz(odd);
}

static inline bool is_zero(const Layout layout, uint32_t word) {
    return !(word & ((layout.level_mask << layout.mantissa) | ((1u << layout.mantissa) - 1)));
}

size_t count_ends(Format format, const void *words, size_t n, int64_t (*ends)[3]) {
    enum { MOST_LENGTHS = 24, LEAST = -149, POWERS = 277 };
    const Layout layout = LAYOUTS[format];
    uint32_t times[POWERS][MOST_LENGTHS];
    memset(times, 0, sizeof times);
    for (size_t i = 0; i < n; i++) {
        const uint32_t word = word_at(format, words, i);
        if (is_zero(layout, word)) continue;
        int highest, length;
        find_ends(layout, word, &highest, &length);
        times[highest - LEAST][length]++;
    }
    size_t found = 0;
    for (int power = 0; power < POWERS; power++) {
        for (int length = layout.mantissa; length >= 0; length--) {
            if (!times[power][length]) continue;
            const int highest = power + LEAST;
            ends[found][0] = highest;
            ends[found][1] = highest - length;
            ends[found++][2] = times[power][length];
        }
    }
    return found;
}

__attribute__((always_inline)) static inline void survey_of(const Format format, const void *words, size_t n,
                                                            Survey *survey) {
    const Layout layout = LAYOUTS[format];
    const int full = layout.mantissa - SHORT_BITS + 1;
    for (size_t i = 0; i < n; i++) {
        const uint32_t word = word_at(format, words, i);
        if (is_zero(layout, word)) continue;
        int highest, length;
        find_ends(layout, word, &highest, &length);
        if (length >= full) {
            survey->uncut++;
            continue;
        }
        survey->present++;
        survey->highest += highest;
        survey->lowest = highest - length < survey->lowest ? highest - length : survey->lowest;
        survey->longest = length > survey->longest ? length : survey->longest;
    }
}

void survey_words(Format format, const void *words, const void *reference, size_t n, Survey *survey) {
    *survey = (Survey){.lowest = NO_LOWEST};
    if (reference && !memcmp(words, reference, n * (size_t)LAYOUTS[format].word_bytes)) {
        survey->same = 1;
    } else if (format == FORMAT_F32) {
        survey_of(FORMAT_F32, words, n, survey);
    } else if (format == FORMAT_BF16) {
        survey_of(FORMAT_BF16, words, n, survey);
    } else {
        survey_of(FORMAT_F16, words, n, survey);
    }
}
