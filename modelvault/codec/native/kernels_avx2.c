/* For machines with AVX2, and products without carries (PCLMULQDQ). */

#if defined(__x86_64__)
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt,pclmul")
#include "kernels_vectors.h"

#define BYTE_VECTORS /* what is here in vectors is left out of the loops */
#define SHORT_VECTORS
#define CHANGE_VECTORS

static inline __m256i bytes_at(const uint8_t *at) { return _mm256_loadu_si256((const __m256i *)at); }

/* A bit for each of sixty-four bytes that is not 0. */
static inline uint64_t present(const uint8_t *bytes) {
    const __m256i none = _mm256_setzero_si256();
    const uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes_at(bytes), none));
    const uint32_t high = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes_at(bytes + 32), none));
    return ~(low | (uint64_t)high << 32);
}

#include "kernels_coder.h"
#include "kernels_crc.h"
#include "kernels_loops.h"

/* Of 64 contexts, by four tables of sixteen. */
static void assign(uint8_t *contexts, size_t n, const uint8_t *bounds, int tables) {
    uint8_t table[CONTEXTS];
    find_tables(bounds, tables, table);
    __m256i quarter[4];
    for (int j = 0; j < 4; j++) quarter[j] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + 16 * j)));
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i context = bytes_at(contexts + i);
        const __m256i is_odd = _mm256_slli_epi16(context, 3), is_high = _mm256_slli_epi16(context, 2);
        const __m256i low = _mm256_blendv_epi8(_mm256_shuffle_epi8(quarter[0], context),
                                               _mm256_shuffle_epi8(quarter[1], context), is_odd);
        const __m256i high = _mm256_blendv_epi8(_mm256_shuffle_epi8(quarter[2], context),
                                                _mm256_shuffle_epi8(quarter[3], context), is_odd);
        _mm256_storeu_si256((__m256i *)(contexts + i), _mm256_blendv_epi8(low, high, is_high));
    }
    for (; i < n; i++) contexts[i] = table[contexts[i]];
}

/* Bytes are taken 32 at a time, and those left over as the last of 32 that are all there, or of as many zeros. */
typedef struct {
    size_t whole;
    __m256i last, is_last;
} Bytes;

static const uint8_t IS_LAST[64] = {[32 ... 63] = 0xFF};

static inline Bytes bytes_of(const uint8_t *at, size_t n) {
    Bytes bytes = {.whole = n & ~(size_t)31, .is_last = bytes_at(IS_LAST + n % 32)};
    if (n < 32) {
        uint8_t few[32] = {0};
        for (size_t i = 0; i < n; i++) few[32 - n + i] = at[i];
        bytes.last = bytes_at(few);
    } else {
        bytes.last = _mm256_and_si256(bytes_at(at + n - 32), bytes.is_last);
    }
    return bytes;
}

/* The sum of four numbers of 64 bits, which is below 2^32. */
static inline uint32_t sum_of_four(__m256i numbers) {
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
    return (uint32_t)(_mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1));
}

static uint32_t sum(const uint8_t *tokens, size_t n) {
    const Bytes bytes = bytes_of(tokens, n);
    const __m256i none = _mm256_setzero_si256();
    __m256i total = _mm256_sad_epu8(bytes.last, none);
    for (size_t i = 0; i < bytes.whole; i += 32) total = _mm256_add_epi64(total, _mm256_sad_epu8(bytes_at(tokens + i), none));
    return sum_of_four(total);
}

static inline int highest_level(const uint8_t *levels, size_t n) {
    const Bytes bytes = bytes_of(levels, n);
    __m256i most = bytes.last;
    for (size_t i = 0; i < bytes.whole; i += 32) most = _mm256_max_epu8(most, bytes_at(levels + i));
    __m128i few = _mm_max_epu8(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    return highest_of_sixteen(few);
}

static inline uint32_t sum_below(const uint8_t *levels, size_t n, int highest) {
    const Bytes bytes = bytes_of(levels, n);
    const __m256i top = _mm256_set1_epi8((char)highest), most = _mm256_set1_epi8(31), none = _mm256_setzero_si256();
    const __m256i last = _mm256_min_epu8(_mm256_sub_epi8(top, bytes.last), most);
    __m256i total = _mm256_sad_epu8(_mm256_and_si256(last, bytes.is_last), none);
    for (size_t i = 0; i < bytes.whole; i += 32) {
        const __m256i below = _mm256_min_epu8(_mm256_sub_epi8(top, bytes_at(levels + i)), most);
        total = _mm256_add_epi64(total, _mm256_sad_epu8(below, none));
    }
    return sum_of_four(total);
}

static inline void count_levels(const uint8_t *levels, size_t n, int highest, uint32_t counts[32], int *last) {
    const Bytes bytes = bytes_of(levels, n);
    size_t left = n;
    int level = 0;
    memset(counts, 0, 32 * sizeof *counts);
    for (; level < 31; level++) {
        const __m256i wanted = _mm256_set1_epi8((char)(highest - level));
        /* A block has at most 1024 words, so a byte counts to 32. */
        __m256i found = _mm256_and_si256(_mm256_cmpeq_epi8(bytes.last, wanted), bytes.is_last);
        for (size_t i = 0; i < bytes.whole; i += 32) found = _mm256_add_epi8(found, _mm256_cmpeq_epi8(bytes_at(levels + i), wanted));
        found = _mm256_sub_epi8(_mm256_setzero_si256(), found);
        counts[level] = sum_of_four(_mm256_sad_epu8(found, _mm256_setzero_si256()));
        left -= counts[level];
        if (!left) break;
    }
    if (level == 31) counts[level] = (uint32_t)left;
    *last = level;
}

static inline __m256i eight_shorts(const uint16_t *at) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at));
}

static inline __m256i eight_words(const uint32_t *at) { return _mm256_loadu_si256((const __m256i *)at); }

static inline uint32_t expected_tokens(const uint32_t counts[32], int last, int context) {
    const uint16_t *expected = EXPECTED + (context - LEAST_CONTEXT);
    __m256i total = _mm256_setzero_si256();
    for (int level = 0; level <= last; level += 8) { /* of two neighbours, every other one */
        const __m256i even = _mm256_and_si256(bytes_at((const uint8_t *)(expected + 2 * level)), _mm256_set1_epi32(0xFFFF));
        total = _mm256_add_epi32(total, _mm256_mullo_epi32(eight_words(counts + level), even));
    }
    total = _mm256_add_epi64(_mm256_and_si256(total, _mm256_set1_epi64x(0xFFFFFFFF)), _mm256_srli_epi64(total, 32));
    return sum_of_four(total);
}

static inline int expect_around(const uint32_t counts[32], int last, int start, uint32_t wanted, uint32_t sums[GUESSES]) {
    const uint16_t *expected = EXPECTED + (start - LEAST_CONTEXT);
    __m256i low = _mm256_setzero_si256(), high = low;
    for (int level = 0; level <= last; level++) {
        const __m256i count = _mm256_set1_epi32((int)counts[level]);
        low = _mm256_add_epi32(low, _mm256_mullo_epi32(eight_shorts(expected + 2 * level), count));
        high = _mm256_add_epi32(high, _mm256_mullo_epi32(eight_shorts(expected + 2 * level + 8), count));
    }
    _mm256_storeu_si256((__m256i *)sums, low);
    _mm256_storeu_si256((__m256i *)(sums + 8), high);
    const __m256i limit = _mm256_set1_epi32((int)wanted); /* these are all below 2^31 */
    const __m256i are_less = _mm256_packs_epi32(_mm256_cmpgt_epi32(limit, low), _mm256_cmpgt_epi32(limit, high));
    return _mm_popcnt_u32((unsigned)_mm256_movemask_epi8(are_less)) / 2;
}

static inline __m256i contexts_of(__m256i levels, int highest, int context) {
    const __m256i most = _mm256_set1_epi8(CONTEXTS - 1);
    const __m256i below = _mm256_min_epu8(_mm256_sub_epi8(_mm256_set1_epi8((char)highest), levels), most);
    const __m256i found = _mm256_adds_epi8(_mm256_add_epi8(below, below), _mm256_set1_epi8((char)context));
    return _mm256_min_epi8(_mm256_max_epi8(found, _mm256_setzero_si256()), most);
}

static inline void set_contexts(const uint8_t *levels, size_t n, int highest, int context, uint8_t *contexts) {
    const Bytes bytes = bytes_of(levels, n); /* looked at before they are overwritten, where contexts take their place */
    const __m256i last = contexts_of(bytes.last, highest, context);
    for (size_t i = 0; i < bytes.whole; i += 32) {
        _mm256_storeu_si256((__m256i *)(contexts + i), contexts_of(bytes_at(levels + i), highest, context));
    }
    uint8_t few[32];
    _mm256_storeu_si256((__m256i *)few, last);
    for (size_t i = bytes.whole; i < n; i++) contexts[i] = few[32 - n + i];
}

/* Counts are integers of 24 bits, which are exact as floats: their exponents are the logarithm's whole part. */
static uint64_t token_bits(const uint32_t *one, const uint32_t *other, size_t n, uint32_t total) {
    const __m256i whole = _mm256_set1_epi32((int)logarithm(total)), most = _mm256_set1_epi32(MOST_BITS);
    const __m256i bias = _mm256_set1_epi32(127), low = _mm256_set1_epi64x(0xFFFFFFFF);
    __m256i sum = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i count = _mm256_add_epi32(eight_words(one + i), eight_words(other + i));
        const __m256i bits = _mm256_castps_si256(_mm256_cvtepi32_ps(count));
        const __m256i behind = _mm256_and_si256(_mm256_srli_epi32(bits, 15), _mm256_set1_epi32(255));
        const __m256i part = _mm256_and_si256(_mm256_i32gather_epi32((const int *)LOGARITHM, behind, 1), _mm256_set1_epi32(255));
        const __m256i power = _mm256_slli_epi32(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), bias), 8);
        const __m256i each = _mm256_min_epu32(_mm256_sub_epi32(whole, _mm256_add_epi32(power, part)), most);
        const __m256i cost = _mm256_mullo_epi32(count, each);
        sum = _mm256_add_epi64(sum, _mm256_add_epi64(_mm256_and_si256(cost, low), _mm256_srli_epi64(cost, 32)));
    }
    uint64_t sums[4], all = 0;
    _mm256_storeu_si256((__m256i *)sums, sum);
    for (int j = 0; j < 4; j++) all += sums[j];
    for (; i < n; i++) all += cost_of_count(one[i] + other[i], logarithm(total));
    return all;
}

#include "kernels_blocks.h"

/* Two to the power of bytes, of which none is above 15. */
static inline __m256i powers_of(__m128i exponents) {
    const __m128i lower = _mm_set_epi64x(0, (long long)0x8040201008040201u), upper = _mm_set_epi64x((long long)0x8040201008040201u, 0);
    const __m128i bytes = _mm_shuffle_epi8(lower, exponents), more = _mm_shuffle_epi8(upper, exponents);
    return _mm256_set_m128i(_mm_unpackhi_epi8(bytes, more), _mm_unpacklo_epi8(bytes, more));
}

static void restore16(uint16_t *predictions, const uint8_t *tokens, const uint16_t *rests, size_t n, int shift) {
    const __m256i one = _mm256_set1_epi16(1), top = _mm256_set1_epi16((short)0x8000), none = _mm256_setzero_si256();
    const __m256i kept = _mm256_set1_epi16((short)(~0u << shift));
    const __m128i by = _mm_cvtsi32_si128(shift);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(tokens + i));
        const __m256i token = _mm256_cvtepu8_epi16(bytes), rest = bytes_at((const uint8_t *)(rests + i));
        const __m256i word = bytes_at((const uint8_t *)(predictions + i));
        /* What has a tail: its two highest bits, and the tail. Of other tokens the power means nothing. */
        const __m128i half = _mm_and_si128(_mm_srli_epi16(bytes, 1), _mm_set1_epi8(15));
        const __m256i power = powers_of(_mm_and_si128(_mm_sub_epi8(half, _mm_set1_epi8(1)), _mm_set1_epi8(15)));
        const __m256i is_odd = _mm256_sub_epi16(none, _mm256_and_si256(token, one));
        const __m256i high = _mm256_add_epi16(_mm256_add_epi16(power, power), _mm256_and_si256(power, is_odd));
        const __m256i has_tail = _mm256_cmpgt_epi16(token, _mm256_set1_epi16(3));
        const __m256i residual = _mm256_blendv_epi8(token, _mm256_add_epi16(high, rest), has_tail);
        const __m256i sign = _mm256_sub_epi16(none, _mm256_and_si256(residual, one));
        const __m256i difference = _mm256_xor_si256(_mm256_srli_epi16(residual, 1), sign);
        __m256i place = _mm256_xor_si256(word, _mm256_or_si256(_mm256_srai_epi16(word, 15), top));
        place = _mm256_add_epi16(place, _mm256_sll_epi16(difference, by));
        const __m256i back = _mm256_or_si256(_mm256_andnot_si256(_mm256_srai_epi16(place, 15), _mm256_set1_epi16(-1)), top);
        _mm256_storeu_si256((__m256i *)(predictions + i), _mm256_and_si256(_mm256_xor_si256(place, back), kept));
    }
    for (; i < n; i++) predictions[i] = restored16(predictions[i], tokens[i], rests[i], shift);
}

/* Sixteen words of a bf16 tensor are floats by twos: the even ones shifted up, the odd ones without the others. */
static inline __m256 even_brains(__m256i words) { return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)); }

static inline __m256 odd_brains(__m256i words) {
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xFFFF0000)));
}

/* As rounded_change. */
static inline __m256i rounded_changes(__m256 some, __m256 others, __m256 inverse) {
    const __m256 most = _mm256_set1_ps(MOST_CHANGE), least = _mm256_set1_ps(-MOST_CHANGE);
    const __m256 change = _mm256_sub_ps(some, others), size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), change);
    const __m256 finite = _mm256_and_ps(change, _mm256_cmp_ps(size, _mm256_set1_ps(INFINITY), _CMP_LT_OQ));
    return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(_mm256_mul_ps(finite, inverse), most), least));
}

static void round_changes_bf16(const void *words, const void *others, size_t n, float inverse, int16_t *rounded) {
    const uint16_t *some = words, *other = others;
    const __m256 by = _mm256_set1_ps(inverse);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i now = bytes_at((const uint8_t *)(some + i)), before = bytes_at((const uint8_t *)(other + i));
        const __m256i even = rounded_changes(even_brains(now), even_brains(before), by);
        const __m256i odd = rounded_changes(odd_brains(now), odd_brains(before), by);
        _mm256_storeu_si256((__m256i *)(rounded + i), _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xAA));
    }
    for (; i < n; i++) rounded[i] = rounded_change(brain_value(some[i]), brain_value(other[i]), inverse);
}

static inline __m256 eight_floats(const uint32_t *words) { return _mm256_castsi256_ps(eight_words(words)); }

static void round_changes_f32(const void *words, const void *others, size_t n, float inverse, int16_t *rounded) {
    const uint32_t *some = words, *other = others;
    const __m256 by = _mm256_set1_ps(inverse);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i low = rounded_changes(eight_floats(some + i), eight_floats(other + i), by);
        const __m256i high = rounded_changes(eight_floats(some + i + 8), eight_floats(other + i + 8), by);
        const __m256i by_halves = _mm256_packs_epi32(low, high);
        _mm256_storeu_si256((__m256i *)(rounded + i), _mm256_permute4x64_epi64(by_halves, 0xD8));
    }
    for (; i < n; i++) rounded[i] = rounded_change(plain_value(some[i]), plain_value(other[i]), inverse);
}

/* Ready to be cut to 16 bits. */
static inline __m256i nearest_brains(__m256 numbers) {
    const __m256i bits = _mm256_castps_si256(numbers), one = _mm256_set1_epi32(1);
    const __m256i is_odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    return _mm256_add_epi32(bits, _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7FFF)));
}

static inline __m256 products_at(const int32_t *low, const int32_t *high) {
    return _mm256_castsi256_ps(_mm256_loadu2_m128i((const __m128i *)high, (const __m128i *)low));
}

static void add_products_bf16(const void *base, const int32_t *products, size_t n, float s, void *words) {
    const uint16_t *some = base;
    uint16_t *out = words;
    const __m256 unit = _mm256_set1_ps(s);
    const __m256i top = _mm256_set1_epi16(255 << 7), none = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i word = bytes_at((const uint8_t *)(some + i));
        const __m256 one = products_at(products + i, products + i + 8), other = products_at(products + i + 4, products + i + 12);
        const __m256 even = _mm256_cvtepi32_ps(_mm256_castps_si256(_mm256_shuffle_ps(one, other, 0x88)));
        const __m256 odd = _mm256_cvtepi32_ps(_mm256_castps_si256(_mm256_shuffle_ps(one, other, 0xDD)));
        const __m256i low = nearest_brains(_mm256_add_ps(even_brains(word), _mm256_mul_ps(unit, even)));
        const __m256i high = nearest_brains(_mm256_add_ps(odd_brains(word), _mm256_mul_ps(unit, odd)));
        const __m256i found = _mm256_blend_epi16(_mm256_srli_epi32(low, 16), high, 0xAA), level = _mm256_and_si256(found, top);
        const __m256i is_special = _mm256_or_si256(_mm256_cmpeq_epi16(level, none), _mm256_cmpeq_epi16(level, top));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_blendv_epi8(found, word, is_special));
    }
    for (; i < n; i++) out[i] = add_to_brain(some[i], products[i], s);
}

/* The bits behind tokens: gathered from words, and scattered to them, by one instruction for 64 bits of words, where that
   is not a program of its own, of a hundred steps and more. */
static bool bits_move_at_once;

/* As many ones as each length tells, of sixteen up to 15. */
static inline __m256i sixteen_masks(const uint8_t *lengths) {
    return _mm256_sub_epi16(powers_of(_mm_loadu_si128((const __m128i *)lengths)), _mm256_set1_epi16(1));
}

static inline void mask_fours(const uint16_t *values, const uint8_t *lengths, uint64_t *masks) {
    (void)values;
    for (int j = 0; j < STEP; j += 4) _mm256_storeu_si256((__m256i *)(masks + j), sixteen_masks(lengths + 4 * j));
}

static inline void mask_pairs(const uint32_t *values, const uint8_t *lengths, uint64_t *masks) {
    const __m256i one = _mm256_set1_epi32(1);
    (void)values;
    for (int j = 0; j < STEP; j += 4) {
        const __m256i length = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(lengths + 2 * j)));
        _mm256_storeu_si256((__m256i *)(masks + j), _mm256_sub_epi32(_mm256_sllv_epi32(one, length), one));
    }
}

static inline uint64_t gathered(const void *values, uint64_t mask) {
    uint64_t words;
    memcpy(&words, values, sizeof words);
    return _pext_u64(words, mask);
}

static inline size_t scatter(void *restrict values, const uint64_t masks[STEP], const uint8_t *stream, size_t bit) {
#pragma GCC unroll 4
    for (int j = 0; j < STEP; j++) {
        const uint64_t words = _pdep_u64(bits_at(stream, bit), masks[j]);
        memcpy((uint8_t *)values + sizeof words * (size_t)j, &words, sizeof words);
        bit += (size_t)_mm_popcnt_u64(masks[j]);
    }
    return bit;
}

static inline size_t scatter_fours(uint16_t *restrict values, const uint8_t *restrict lengths, const uint32_t *of_four,
                                   const uint8_t *stream, size_t bit) {
    uint64_t masks[STEP];
    (void)of_four;
    mask_fours(values, lengths, masks);
    return scatter(values, masks, stream, bit);
}

static inline size_t scatter_pairs(uint32_t *restrict values, const uint8_t *restrict lengths, const uint8_t *of_two,
                                   const uint8_t *stream, size_t bit) {
    uint64_t masks[STEP];
    (void)of_two;
    mask_pairs(values, lengths, masks);
    return scatter(values, masks, stream, bit);
}

static size_t pack32_avx2(const uint32_t *values, const uint8_t *lengths, size_t n, uint8_t *stream) {
    return bits_move_at_once ? pack32_by(mask_pairs, gathered, values, lengths, n, stream)
                             : pack32(values, lengths, n, stream);
}

static size_t pack16_avx2(const uint16_t *values, const uint8_t *lengths, size_t n, uint8_t *stream) {
    return bits_move_at_once ? pack16_by(mask_fours, gathered, values, lengths, n, stream)
                             : pack16(values, lengths, n, stream);
}

static size_t unpack32_avx2(uint32_t *restrict values, const uint8_t *restrict lengths, size_t n, const uint8_t *stream,
                            size_t bit) {
    return bits_move_at_once ? unpack32_by(scatter_pairs, values, lengths, n, stream, bit)
                             : unpack32(values, lengths, n, stream, bit);
}

static size_t unpack16_avx2(uint16_t *restrict values, const uint8_t *restrict lengths, size_t n, const uint8_t *stream,
                            size_t bit) {
    return bits_move_at_once ? unpack16_by(scatter_fours, values, lengths, n, stream, bit)
                             : unpack16(values, lengths, n, stream, bit);
}

/* By the bits that are set for some of eight: of eight words of 16 bits the others are brought to the end, in order; and of
   the next eight the first ones to where a bit is set, as words of 32 bits. What is left is 0. */
static uint8_t to_the_end[256][16], to_places[256][32];

void kernels_avx2_prepare(void) {
    __builtin_cpu_init();
    bits_move_at_once = !__builtin_cpu_is("znver1") && !__builtin_cpu_is("znver2") && !__builtin_cpu_is("bdver4");
    memset(to_the_end, 0x80, sizeof to_the_end);
    memset(to_places, 0x80, sizeof to_places);
    for (unsigned mask = 0; mask < 256; mask++) {
        unsigned set = 0, other = (unsigned)__builtin_popcount(mask);
        for (unsigned place = 0; place < 8; place++) {
            const bool is_set = mask >> place & 1;
            uint8_t *to = is_set ? to_places[mask] + 4 * place : to_the_end[mask] + 2 * other++;
            const unsigned from = is_set ? set++ : place;
            for (unsigned j = 0; j < 2; j++) to[j] = (uint8_t)(2 * from + j);
        }
    }
}

static inline __m256i eight_bytes(const uint8_t *at) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at));
}

/* The divisions of two places, and of those four behind them. Loaded one by one, because AMD's processors take longer to
   gather them: 1.30 and 0.81 ns a token on Zen 3, in all of the encoder. */
static inline __m128 two_divisions(const Division *one, const Division *other) {
    return _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)one)), (const __m64 *)other);
}

static inline __m256 four_divisions(const Division *divisions, const uint16_t *place) {
    return _mm256_set_m128(two_divisions(divisions + place[4], divisions + place[5]),
                           two_divisions(divisions + place[0], divisions + place[1]));
}

/* Eight words before `at` are overwritten, of which those that were due are kept. */
static inline __m256i encode_eight(__m256i state, const Division *divisions, const uint16_t *place, uint16_t **at) {
    const __m256 even_pairs = four_divisions(divisions, place), odd_pairs = four_divisions(divisions, place + 2);
    __m256i reciprocal = _mm256_castps_si256(_mm256_shuffle_ps(even_pairs, odd_pairs, 0x88));
    __m256i rest = _mm256_castps_si256(_mm256_shuffle_ps(even_pairs, odd_pairs, 0xDD));
    __m256i frequency = _mm256_srli_epi32(rest, 16);
    __m256i fits = _mm256_cmpgt_epi32(frequency, _mm256_srli_epi32(state, 20));
    unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(fits));
    __m256i low = _mm256_shuffle_epi8(state, _mm256_set1_epi64x(0x0D0C090805040100)); /* of two halves, each twice */
    __m128i words = _mm256_castsi256_si128(_mm256_permute4x64_epi64(low, 0x08));
    _mm_storeu_si128((__m128i *)(*at - 8), _mm_shuffle_epi8(words, _mm_loadu_si128((const __m128i *)to_the_end[mask])));
    *at += (size_t)_mm_popcnt_u32(mask) - 8;
    state = _mm256_srlv_epi32(state, _mm256_andnot_si256(fits, _mm256_set1_epi32(16)));
    __m256i even = _mm256_mul_epu32(state, reciprocal);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(state, 32), _mm256_srli_epi64(reciprocal, 32));
    __m256i high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    __m256i shift = _mm256_and_si256(_mm256_srli_epi32(rest, 12), _mm256_set1_epi32(15));
    __m256i quotient = _mm256_srlv_epi32(high, shift);
    __m256i others = _mm256_sub_epi32(_mm256_set1_epi32(FREQUENCIES), frequency);
    __m256i start = _mm256_and_si256(rest, _mm256_set1_epi32(0xFFF));
    return _mm256_add_epi32(_mm256_add_epi32(state, start), _mm256_mullo_epi32(quotient, others));
}

static uint16_t *encode_avx2(const uint8_t *tokens, const uint8_t *tables, size_t n, const Division *divisions,
                             int stride, uint32_t *states, int lanes, uint16_t *end) {
    if (lanes != 32) return encode_plain(tokens, tables, n, divisions, stride, states, lanes, end);
    size_t whole = n & ~(size_t)31;
    end = encode_plain(tokens + whole, tables + whole, n - whole, divisions, stride, states, lanes, end);
    __m256i state[4];
    for (int j = 0; j < 4; j++) state[j] = _mm256_loadu_si256((const __m256i *)(states + 8 * j));
    for (size_t stop = whole; stop > 0;) {
        uint16_t place[CODED_TILE];
        const size_t start = (stop - 1) / CODED_TILE * CODED_TILE;
        find_places(tokens + start, tables + start, stop - start, stride, place);
        for (size_t i = stop - start; i > 0;) {
            i -= 32;
            for (int j = 3; j >= 0; j--) state[j] = encode_eight(state[j], divisions, place + i + 8 * j, &end);
        }
        stop = start;
    }
    for (int j = 0; j < 4; j++) _mm256_storeu_si256((__m256i *)(states + 8 * j), state[j]);
    return end;
}

/* The slots of two places, and of more. Loaded one by one, as divisions: 0.69 ns a token, in all of the decoder, and 0.82
   with gathers. */
static inline __m128i two_slots(uint64_t places, const uint32_t *slots) {
    return _mm_insert_epi32(_mm_cvtsi32_si128((int)slots[(uint32_t)places]), (int)slots[places >> 32], 1);
}

static inline __m128i four_slots(__m128i places, const uint32_t *slots) {
    const uint64_t low = (uint64_t)_mm_cvtsi128_si64(places), high = (uint64_t)_mm_extract_epi64(places, 1);
    return _mm_unpacklo_epi64(two_slots(low, slots), two_slots(high, slots));
}

static inline __m256i eight_slots(__m256i places, const uint32_t *slots) {
    const __m128i low = _mm256_castsi256_si128(places), high = _mm256_extracti128_si256(places, 1);
    return _mm256_set_m128i(four_slots(high, slots), four_slots(low, slots));
}

static inline __m256i decode_eight(__m256i state, __m256i *symbols, const uint8_t *tables, const uint32_t *slots,
                                   const uint8_t **at) {
    const __m256i low = _mm256_set1_epi32(FREQUENCIES - 1);
    __m256i index = _mm256_or_si256(_mm256_slli_epi32(eight_bytes(tables), FREQUENCY_BITS), _mm256_and_si256(state, low));
    __m256i slot = eight_slots(index, slots);
    *symbols = _mm256_srli_epi32(slot, 23);
    __m256i frequency = _mm256_and_si256(_mm256_srli_epi32(slot, 11), _mm256_set1_epi32(0xFFF));
    state = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(state, FREQUENCY_BITS)),
                             _mm256_and_si256(slot, low));
    __m256i due = _mm256_cmpgt_epi32(_mm256_set1_epi32(STATE_LOW), state);
    unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(due));
    __m256i next = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)*at));
    __m256i words = _mm256_shuffle_epi8(next, bytes_at(to_places[mask]));
    *at += 2 * (unsigned)_mm_popcnt_u32(mask);
    return _mm256_or_si256(_mm256_sllv_epi32(state, _mm256_and_si256(due, _mm256_set1_epi32(16))), words);
}

static const uint8_t *decode_avx2(uint8_t *tokens, const uint8_t *tables, size_t n, const uint32_t *slots,
                                  uint32_t *states, int lanes, const uint8_t *at, const uint8_t *end) {
    if (lanes != 32) return decode_plain(tokens, tables, n, slots, states, lanes, at, end);
    size_t whole = n & ~(size_t)31;
    __m256i state[4];
    for (int j = 0; j < 4; j++) state[j] = _mm256_loadu_si256((const __m256i *)(states + 8 * j));
    for (size_t i = 0; i < whole; i += 32) {
        if (at > end) return NULL;
        __m256i symbols[4];
        for (int j = 0; j < 4; j++) state[j] = decode_eight(state[j], symbols + j, tables + i + 8 * j, slots, &at);
        const __m256i low = _mm256_packus_epi32(symbols[0], symbols[1]), high = _mm256_packus_epi32(symbols[2], symbols[3]);
        const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packed by halves, fours of each are apart */
        const __m256i all = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), in_order);
        _mm256_storeu_si256((__m256i *)(tokens + i), all);
    }
    for (int j = 0; j < 4; j++) _mm256_storeu_si256((__m256i *)(states + 8 * j), state[j]);
    return decode_plain(tokens + whole, tables + whole, n - whole, slots, states, lanes, at, end);
}

/* As `crc_folded`, 128 bytes at a time, where the machine multiplies two pairs at once: 25 GB/s in place of 10. */
#pragma GCC push_options
#pragma GCC target("vpclmulqdq")
static inline __m256i fold_two(__m256i bytes, __m256i by, __m256i more) {
    const __m256i low = _mm256_clmulepi64_epi128(bytes, by, 0x00), high = _mm256_clmulepi64_epi128(bytes, by, 0x11);
    return _mm256_xor_si256(_mm256_xor_si256(low, high), more);
}

static uint32_t crc_by_128(uint32_t sum, const uint8_t *bytes, size_t n) {
    const __m256i by_128 = _mm256_broadcastsi128_si256(_mm_set_epi64x(0x14A7FE880, 0x1E88EF372));
    __m256i folded[4];
    for (int j = 0; j < 4; j++) folded[j] = bytes_at(bytes + 32 * j);
    folded[0] = _mm256_xor_si256(folded[0], _mm256_zextsi128_si256(_mm_cvtsi32_si128((int)~sum)));
    for (bytes += 128, n -= 128; n >= 128; bytes += 128, n -= 128) {
        for (int j = 0; j < 4; j++) folded[j] = fold_two(folded[j], by_128, bytes_at(bytes + 32 * j));
    }
    uint8_t left[128];
    memcpy(left, folded, sizeof left);
    return crc_folded(crc_folded(~0u, left, sizeof left), bytes, n);
}
#pragma GCC pop_options

static uint32_t crc_avx2(uint32_t sum, const uint8_t *bytes, size_t n) {
    return n < 128 || !__builtin_cpu_supports("vpclmulqdq") ? crc_folded(sum, bytes, n) : crc_by_128(sum, bytes, n);
}

const Kernels kernels_avx2 = {.name = "avx2", LOOPS, .encode = encode_avx2, .decode = decode_avx2,
                             .pack32 = pack32_avx2, .pack16 = pack16_avx2, .unpack32 = unpack32_avx2,
                             .unpack16 = unpack16_avx2, .crc = crc_avx2};

#else
typedef int not_for_this_machine;
#endif
