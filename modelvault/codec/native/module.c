/* What Python sees: `modelvault.codec._native`. Buffers in, bytes out, the interpreter lock let go in between. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "chunk.h"
#include "crc.h"
#include "fit.h"
#include "glance.h"
#include "low_rank.h"
#include "pieces.h"
#include "rounding.h"
#include "strides.h"
#include "told.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are read as they lie in memory; on a big-endian machine the numpy kernels serve"
#endif

enum { MAX_WORDS = 1 << 24 };

/* Of the process; a word, which threads may read while another sets it. */
static const Kernels *kernels;

/* Of a module: each interpreter has its own classes. */
typedef struct {
    PyObject *codec_error;
} State;

static PyObject *codec_error_of(PyObject *module) { return ((State *)PyModule_GetState(module))->codec_error; }

static int format_of(int dtype_code, Format *format) {
    switch (dtype_code) {
    case 12: /* F32 */
    case 21: /* C64 */
        *format = FORMAT_F32;
        return 0;
    case 11: /* BF16 */
        *format = FORMAT_BF16;
        return 0;
    case 10: /* F16 */
    case 20: /* C32 */
        *format = FORMAT_F16;
        return 0;
    default:
        PyErr_Format(PyExc_ValueError, "dtype %d has no float words of 2 or 4 bytes", dtype_code);
        return -1;
    }
}

/* Scratch memory, kept by its thread from one call to the next: pages that are given back to the system and taken
   anew for every chunk take longer than some of the steps that use them. */
#if !defined(__has_feature)
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
enum { MOST_KEPT = 0 }; /* what reads behind its end shall be seen */
#else
enum { MOST_KEPT = 1 << 24 };
#endif

typedef union {
    size_t size;
    uint8_t alignment[64];
} Scratch;

static pthread_key_t kept_scratch;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int key_failure;

/* glibc gives free memory back to the system where twice as much of it lies together as the largest block had that was
   freed so far, and takes it anew for the next chunk, page by page. One block, given back before it was touched, makes
   it as patient as it becomes; a process that trains has done so by itself. A commit of 91 MB in two threads, in turn:
   14,000 to 24,000 page faults and 0.25 to 0.28 s without, 1,200 and 0.22 s with it. */
static void make_patient(void) {
    void *volatile block = malloc(31 << 20);
    free(block);
}

static void prepare_process(void) {
    key_failure = pthread_key_create(&kept_scratch, free);
    make_patient();
    crc_prepare();
    chunk_prepare();
#if defined(__x86_64__)
    kernels_avx2_prepare();
#endif
    kernels = kernels_best();
}

/* At least so many bytes, for `scratch_leave`; NULL if there is no memory. */
static void *scratch_take(size_t bytes) {
    Scratch *scratch = pthread_getspecific(kept_scratch);
    if (scratch) pthread_setspecific(kept_scratch, NULL);
    if (!scratch || scratch->size < bytes) {
        free(scratch);
        scratch = malloc(sizeof *scratch + bytes);
        if (!scratch) return NULL;
        scratch->size = bytes;
    }
    return scratch + 1;
}

/* What a call within a call left is not lost: a collection of garbage may begin anywhere that Python is called. */
static void scratch_leave(void *memory) {
    if (!memory) return;
    Scratch *scratch = (Scratch *)memory - 1;
    const bool keep = scratch->size <= MOST_KEPT && !pthread_getspecific(kept_scratch);
    if (!keep || pthread_setspecific(kept_scratch, scratch)) free(scratch);
}

/* A buffer whose words are aligned; copied where they were not. */
typedef struct {
    Py_buffer view; /* view.obj is NULL where nothing is held */
    void *copy;
    const uint8_t *data;
    size_t size;
} Bytes;

static int bytes_get(Bytes *bytes, PyObject *object, size_t alignment) {
    if (PyObject_GetBuffer(object, &bytes->view, PyBUF_SIMPLE)) return -1;
    bytes->data = bytes->view.buf;
    bytes->size = (size_t)bytes->view.len;
    if ((uintptr_t)bytes->data % alignment) {
        bytes->copy = malloc(bytes->size ? bytes->size : 1);
        if (!bytes->copy) {
            PyBuffer_Release(&bytes->view);
            PyErr_NoMemory();
            return -1;
        }
        memcpy(bytes->copy, bytes->data, bytes->size);
        bytes->data = bytes->copy;
    }
    return 0;
}

static void bytes_release(Bytes *bytes) {
    free(bytes->copy);
    PyBuffer_Release(&bytes->view);
}

/* A call's inputs, gathered and let go together. */
typedef struct {
    Task task;
    Predictor predictors[MAX_PREDICTORS];
    const void *pointers[MAX_REFERENCES];
    Bytes chunk, references[MAX_REFERENCES];
    PyObject *codec_error; /* of the module, which outlives the call */
} Call;

static void call_release(Call *call) {
    bytes_release(&call->chunk);
    for (int i = 0; i < MAX_REFERENCES; i++) bytes_release(&call->references[i]);
}

static int take_double(const uint8_t **at, const uint8_t *end, double *value) {
    if (end - *at < 8) return -1;
    memcpy(value, *at, 8);
    *at += 8;
    return *value - *value == 0 ? 0 : -1; /* finite */
}

static int take_count(const uint8_t **at, const uint8_t *end, uint32_t most, uint32_t *value) {
    *value = 0;
    for (int shift = 0; shift < 14; shift += 7) {
        if (*at == end) return -1;
        uint8_t byte = *(*at)++;
        *value |= (uint32_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) return (byte || !shift) && *value >= 1 && *value <= most ? 0 : -1;
    }
    return -1;
}

/* Read a tensor's parameters; returns how many references they need, or -1. */
static int predictors_read(Call *call, const uint8_t *at, const uint8_t *end) {
    int needed = 1;
    if (end - at < 2 || at[1] < 1 || at[1] > MAX_PREDICTORS) return -1;
    call->task.predictors = at[1];
    at += 2;
    for (int i = 0; i < call->task.predictors; i++) {
        Predictor *predictor = &call->predictors[i];
        if (at == end) return -1;
        uint8_t kind = *at++;
        if (kind > COMBINED) return -1;
        predictor->kind = (Kind)kind;
        if ((kind == SCALED || kind == COMBINED) && take_double(&at, end, &predictor->a)) return -1;
        if (kind == COMBINED) {
            uint32_t terms;
            if (take_count(&at, end, MAX_TERMS, &terms)) return -1;
            predictor->terms = (int)terms;
            for (uint32_t j = 0; j < terms; j++) {
                Term *term = &predictor->term[j];
                if (end - at < 2 || at[0] > STEP_TERM || at[1] < 1 || at[1] >= MAX_REFERENCES) return -1;
                term->kind = (TermKind)at[0];
                term->reference = at[1];
                at += 2;
                const int references = term->reference + (term->kind == STEP_TERM) + 1;
                if (references > MAX_REFERENCES || take_double(&at, end, &term->factor)) return -1;
                if (term->kind == STEP_TERM && take_double(&at, end, &term->epsilon)) return -1;
                if (needed < references) needed = references;
            }
        }
        if (kind == DECAYED) {
            uint32_t runs, repeats = 0;
            if (take_count(&at, end, MAX_RUNS, &runs)) return -1;
            predictor->runs = (int)runs;
            for (uint32_t j = 0; j < runs; j++) {
                Run *run = &predictor->run[j];
                if (take_double(&at, end, &run->factor) || take_count(&at, end, MAX_REPEATS, &run->repeats)) return -1;
                repeats += run->repeats;
            }
            if (repeats > MAX_REPEATS) return -1;
        }
    }
    return at == end ? needed : -1;
}

/* Fill in so many references. `size` is what each must have. */
static int call_first(Call *call, PyObject *references, int needed, size_t size, size_t alignment) {
    Py_ssize_t given = PySequence_Size(references);
    if (given < 0) return -1;
    if (given < needed) {
        PyErr_Format(call->codec_error, "%zd references given, %d needed", given, needed);
        return -1;
    }
    for (int i = 0; i < needed; i++) {
        PyObject *reference = PySequence_GetItem(references, i);
        if (!reference) return -1;
        int failed = bytes_get(&call->references[i], reference, alignment);
        Py_DECREF(reference);
        if (failed) return -1;
        if (call->references[i].size != size) {
            PyErr_Format(call->codec_error, "reference of %zu bytes for a chunk of %zu", call->references[i].size, size);
            return -1;
        }
        call->pointers[i] = call->references[i].data;
    }
    return 0;
}

/* Fill in predictors and references. `size` is what each reference must have. */
static int call_references(Call *call, PyObject *parameters, PyObject *references, size_t size, size_t alignment) {
    Py_buffer view;
    if (PyObject_GetBuffer(parameters, &view, PyBUF_SIMPLE)) return -1;
    const uint8_t *at = view.buf;
    int needed = predictors_read(call, at, at + view.len);
    PyBuffer_Release(&view);
    if (needed < 0) {
        PyErr_SetString(call->codec_error, "codec parameters are not valid");
        return -1;
    }
    call->task.predictor = call->predictors;
    return call_first(call, references, needed, size, alignment);
}

static int call_begin(Call *call, PyObject *module, int dtype_code, size_t size) {
    memset(call, 0, sizeof *call);
    call->codec_error = codec_error_of(module);
    if (format_of(dtype_code, &call->task.format)) return -1;
    call->task.n = size / (size_t)LAYOUTS[call->task.format].word_bytes;
    call->task.references = call->pointers;
    if (call->task.n > MAX_WORDS) {
        PyErr_Format(PyExc_ValueError, "chunk of %zu bytes is too long", size);
        return -1;
    }
    return 0;
}

/* Begin a call that encodes; without parameters there are no references. What it holds is let go if it fails. */
static int call_encode(Call *call, PyObject *module, int dtype_code, PyObject *chunk, PyObject *parameters,
                       PyObject *references) {
    const Py_ssize_t size = PyObject_Size(chunk);
    if (size < 0 || call_begin(call, module, dtype_code, (size_t)size)) return -1;
    const size_t word_bytes = (size_t)LAYOUTS[call->task.format].word_bytes;
    if (bytes_get(&call->chunk, chunk, word_bytes)) return -1;
    if (call->chunk.size != (size_t)size) {
        PyErr_SetString(PyExc_ValueError, "a chunk is a buffer of bytes");
    } else if (!parameters || !call_references(call, parameters, references, call->chunk.size, word_bytes)) {
        return 0;
    }
    call_release(call);
    return -1;
}

static PyObject *encode(PyObject *module, int dtype_code, PyObject *chunk, PyObject *parameters, PyObject *references,
                        Place place, size_t limit) {
    Call call;
    PyObject *result = NULL;
    if (call_encode(&call, module, dtype_code, chunk, parameters, references)) return NULL;
    const size_t word_bytes = (size_t)LAYOUTS[call.task.format].word_bytes;
    const size_t capacity = call.task.n * word_bytes, tail = call.chunk.size - capacity;
    /* Written where it stays, and cut to what it took: to copy the bodies of MobileNetV2 took 3 % of the time of making
       them, and bytes cannot be cut through the limited API. */
    result = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(capacity + tail + BODY_ROOM));
    if (!result) goto done;
    void *memory = scratch_take(encode_scratch(&call.task));
    if (!memory) {
        Py_CLEAR(result);
        PyErr_NoMemory();
        goto done;
    }
    uint8_t *body = (uint8_t *)PyByteArray_AsString(result);
    size_t length;
    Py_BEGIN_ALLOW_THREADS;
    length = encode_body(kernels, &call.task, place, call.chunk.data, body, capacity, limit, memory);
    if (length) memcpy(body + length, call.chunk.data + capacity, tail);
    Py_END_ALLOW_THREADS;
    scratch_leave(memory);
    if (length) {
        if (PyByteArray_Resize(result, (Py_ssize_t)(length + tail))) Py_CLEAR(result);
    } else {
        Py_DECREF(result);
        result = Py_None;
        Py_INCREF(result);
    }
done:
    call_release(&call);
    return result;
}

/* What frames begin with: docs/format/codecs.md. */
enum { RESIDUAL_RANS = 4, LEVELS_RANS = 5, STRIDES_DELTA = 21, LOW_RANK = 22, LOW_RANK_DELTA = 23, FRAME_HEAD = 5 };

static uint32_t sum_of_frame(const uint8_t *frame, size_t size) {
    return kernels->crc(crc_plain(0, frame, 1), frame + FRAME_HEAD, size - FRAME_HEAD);
}

/* Whether a tensor's parameters name no predictor. */
static bool names_none(PyObject *parameters) {
    Py_buffer view;
    if (PyObject_GetBuffer(parameters, &view, PyBUF_SIMPLE)) {
        PyErr_Clear(); /* said again where they are read */
        return false;
    }
    const bool none = view.len >= 2 && !((const uint8_t *)view.buf)[1];
    PyBuffer_Release(&view);
    return none;
}

/* The chunk of a frame; or whether that is `expected`, if it is given, which has the size then. None if none of the three
   codecs made it, or it is a delta and the parameters name no predictor. */
static PyObject *decode(PyObject *module, int dtype_code, PyObject *frame, Py_ssize_t size, const Bytes *expected,
                        PyObject *parameters, PyObject *references) {
    Call call;
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "a chunk has no negative size");
        return NULL;
    }
    PyObject *result = NULL;
    uint8_t *memory = NULL;
    if (call_begin(&call, module, dtype_code, (size_t)size)) return NULL;
    const size_t word_bytes = (size_t)LAYOUTS[call.task.format].word_bytes;
    if (bytes_get(&call.chunk, frame, 1)) return NULL;
    const uint8_t *data = call.chunk.data;
    const size_t length = call.chunk.size;
    const int codec = length ? data[0] : -1;
    const bool by_strides = codec == STRIDES_DELTA, by_factors = codec == LOW_RANK || codec == LOW_RANK_DELTA;
    const bool is_delta = by_strides || codec == RESIDUAL_RANS || codec == LOW_RANK_DELTA;
    const bool is_known = is_delta || codec == LEVELS_RANS || codec == LOW_RANK;
    if (length < FRAME_HEAD || !is_known || (is_delta && names_none(parameters))) {
        result = Py_None;
        Py_INCREF(result);
        goto done;
    }
    if (by_strides && call.task.format != FORMAT_F32) {
        PyErr_Format(call.codec_error, "strides-delta frame of words of %zu bytes", word_bytes);
        goto done;
    }
    const bool by_first = by_strides || (codec == LOW_RANK_DELTA && looks_at_first(data + FRAME_HEAD, length - FRAME_HEAD));
    if (by_first ? call_first(&call, references, 1, (size_t)size, word_bytes)
                 : is_delta && call_references(&call, parameters, references, (size_t)size, word_bytes)) {
        goto done;
    }
    const size_t tail = (size_t)size - call.task.n * word_bytes, body = length - FRAME_HEAD;
    const size_t room = by_strides   ? decode_strides_scratch(call.task.n)
                        : by_factors ? decode_low_rank_scratch(&call.task)
                                     : decode_scratch(&call.task);
    memory = scratch_take(room + (expected ? (size_t)size : 0));
    if (!memory) {
        PyErr_NoMemory();
        goto done;
    }
    if (!expected) result = PyBytes_FromStringAndSize(NULL, size);
    if (!expected && !result) goto done;
    uint8_t *out = expected ? memory + room : (uint8_t *)PyBytes_AsString(result);
    const char *wrong = NULL;
    uint32_t sum, told;
    bool is_it = false;
    memcpy(&told, data + 1, sizeof told);
    Py_BEGIN_ALLOW_THREADS;
    sum = sum_of_frame(data, length);
    if (sum == told) {
        if (body < tail) {
            wrong = "it ends too early";
        } else if (by_strides) {
            wrong = decode_strides(kernels, call.pointers[0], call.task.n, data + FRAME_HEAD, body - tail, out, memory);
        } else if (by_factors) {
            wrong = decode_low_rank(kernels, &call.task, is_delta, data + FRAME_HEAD, body - tail, out, memory);
        } else {
            wrong = decode_body(kernels, &call.task, data + FRAME_HEAD, body - tail, out, memory);
        }
        if (!wrong) memcpy(out + size - tail, data + length - tail, tail);
        if (!wrong && expected) is_it = !size || !memcmp(out, expected->data, (size_t)size);
    }
    Py_END_ALLOW_THREADS;
    if (sum != told || wrong) {
        Py_XDECREF(result);
        result = NULL;
        if (wrong) {
            PyErr_Format(call.codec_error, "body of %zu bytes: %s", body, wrong);
        } else {
            PyErr_Format(call.codec_error, "frame checksum is %08x, expected %08x", sum, told);
        }
    } else if (expected) {
        result = PyBool_FromLong(is_it);
    }
done:
    scratch_leave(memory);
    call_release(&call);
    return result;
}

enum { EQUAL_SIGN = 1, COMPARED_AT_ONCE = 1 << 14 };

/* Chunks that are not equal differ early, nearly always: others run only while the rest is compared. */
static bool are_equal(const uint8_t *one, const uint8_t *other, size_t size) {
    const size_t first = size < COMPARED_AT_ONCE ? size : COMPARED_AT_ONCE;
    if (memcmp(one, other, first)) return false;
    if (first == size) return true;
    bool equal;
    Py_BEGIN_ALLOW_THREADS;
    equal = !memcmp(one + first, other + first, size - first);
    Py_END_ALLOW_THREADS;
    return equal;
}

static PyObject *glance_at(PyObject *module, PyObject *args) {
    int dtype_code, alone;
    PyObject *chunk, *reference, *result = NULL;
    Format format;
    Bytes words = {0}, base = {0};
    (void)module;
    if (!PyArg_ParseTuple(args, "iOOp", &dtype_code, &chunk, &reference, &alone)) return NULL;
    if (format_of(dtype_code, &format)) return NULL;
    const size_t word_bytes = (size_t)LAYOUTS[format].word_bytes;
    if (bytes_get(&words, chunk, word_bytes)) return NULL;
    if (reference != Py_None) {
        if (bytes_get(&base, reference, word_bytes)) goto done;
        if (base.size != words.size) {
            PyErr_Format(PyExc_ValueError, "reference of %zu bytes for a chunk of %zu", base.size, words.size);
            goto done;
        }
    }
    int signs = EQUAL_SIGN;
    if (!base.data || !words.size || !are_equal(words.data, base.data, words.size)) {
        signs = glance(format, words.data, base.data, words.size / word_bytes, alone);
    }
    result = PyLong_FromLong(signs);
done:
    bytes_release(&words);
    bytes_release(&base);
    return result;
}

static PyObject *ends(PyObject *module, PyObject *args) {
    int dtype_code;
    PyObject *words, *result = NULL;
    Format format;
    Bytes bytes = {0};
    (void)module;
    if (!PyArg_ParseTuple(args, "iO", &dtype_code, &words)) return NULL;
    if (format_of(dtype_code, &format)) return NULL;
    const size_t word_bytes = (size_t)LAYOUTS[format].word_bytes;
    if (bytes_get(&bytes, words, word_bytes)) return NULL;
    int64_t(*found)[3] = scratch_take(MOST_ENDS * sizeof *found);
    if (found) {
        const size_t count = count_ends(format, bytes.data, bytes.size / word_bytes, found);
        result = PyBytes_FromStringAndSize((char *)found, (Py_ssize_t)(count * sizeof *found));
        scratch_leave(found);
    } else {
        PyErr_NoMemory();
    }
    bytes_release(&bytes);
    return result;
}

static PyObject *encode_delta(PyObject *module, PyObject *args) {
    int dtype_code;
    PyObject *chunk, *parameters, *references;
    Py_ssize_t row, start, limit;
    if (!PyArg_ParseTuple(args, "iOOOnnn", &dtype_code, &chunk, &parameters, &references, &row, &start, &limit)) return NULL;
    return encode(module, dtype_code, chunk, parameters, references, (Place){(size_t)row, (size_t)start}, (size_t)limit);
}

static PyObject *encode_keyframe(PyObject *module, PyObject *args) {
    int dtype_code;
    PyObject *chunk;
    Py_ssize_t row, start;
    if (!PyArg_ParseTuple(args, "iOnn", &dtype_code, &chunk, &row, &start)) return NULL;
    return encode(module, dtype_code, chunk, NULL, NULL, (Place){(size_t)row, (size_t)start}, 0);
}

static PyObject *decode_frame(PyObject *module, PyObject *args) {
    int dtype_code;
    PyObject *frame, *parameters, *references;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "iOnOO", &dtype_code, &frame, &size, &parameters, &references)) return NULL;
    return decode(module, dtype_code, frame, size, NULL, parameters, references);
}

static PyObject *frame_decodes_to(PyObject *module, PyObject *args) {
    int dtype_code;
    PyObject *frame, *chunk, *parameters, *references;
    Bytes expected = {0};
    if (!PyArg_ParseTuple(args, "iOOOO", &dtype_code, &frame, &chunk, &parameters, &references)) return NULL;
    if (bytes_get(&expected, chunk, 1)) return NULL;
    PyObject *result = decode(module, dtype_code, frame, (Py_ssize_t)expected.size, &expected, parameters, references);
    bytes_release(&expected);
    return result;
}

/* The best body of a chunk without signs behind the head of `frame`, or of the next in memory, and its codec there. Returns
   the length without the chunk's tail; 0 where byte planes may do better, and `told` says whether there is a delta. */
static size_t best_body(const Task *task, Place place, const Bytes *chunk, size_t limit, uint8_t *scratch, uint8_t **frame,
                        size_t frame_room, int *told) {
    enum { POOR = 32 };
    const size_t capacity = task->n * (size_t)LAYOUTS[task->format].word_bytes, tail = chunk->size - capacity;
    uint8_t *delta = *frame, *keyframe = delta + frame_room;
    if (task->format == FORMAT_F32) {
        const size_t length = encode_strides(kernels, chunk->data, task->references[0], task->n, place, delta + FRAME_HEAD,
                                             scratch);
        delta[0] = STRIDES_DELTA;
        if (length) return length;
    }
    bool is_delta = false;
    const size_t by_factors = limit > tail ? encode_low_rank(kernels, task, place, chunk->data, delta + FRAME_HEAD,
                                                             limit - tail, &is_delta, scratch) : 0;
    delta[0] = is_delta ? LOW_RANK_DELTA : LOW_RANK;
    if (by_factors) return by_factors;
    const size_t length = encode_body(kernels, task, place, chunk->data, delta + FRAME_HEAD, capacity, limit, scratch);
    delta[0] = RESIDUAL_RANS;
    if (length && length + tail < limit) return length;
    *told = length ? LONG_SIGN : 0;
    if (!are_noise(task->format, chunk->data, task->n)) return 0;
    const Task alone = {.format = task->format, .n = task->n};
    const size_t other = encode_body(kernels, &alone, place, chunk->data, keyframe + FRAME_HEAD, capacity, 0, scratch);
    keyframe[0] = LEVELS_RANS;
    const bool is_keyframe = other && (!length || other <= length);
    const size_t shortest = is_keyframe ? other : length;
    if (is_keyframe) *frame = keyframe;
    return shortest && shortest + tail <= limit + chunk->size / POOR ? shortest : 0;
}

static PyObject *encode_frame(PyObject *module, PyObject *args) {
    int dtype_code, alone;
    PyObject *chunk, *parameters, *references, *result = NULL;
    Py_ssize_t row, start, limit;
    Call call;
    if (!PyArg_ParseTuple(args, "iOOOnnnp", &dtype_code, &chunk, &parameters, &references, &row, &start, &limit, &alone)) {
        return NULL;
    }
    if (call_encode(&call, module, dtype_code, chunk, parameters, references)) return NULL;
    const size_t word_bytes = (size_t)LAYOUTS[call.task.format].word_bytes;
    const uint8_t *words = call.chunk.data;
    const size_t capacity = call.task.n * word_bytes, tail = call.chunk.size - capacity;
    const size_t n = call.task.n, plain = encode_scratch(&call.task);
    const size_t by_strides = call.task.format == FORMAT_F32 ? encode_strides_scratch(n) : 0;
    const Place place = {(size_t)row, (size_t)start};
    const size_t by_factors = encode_low_rank_scratch(&call.task, place), most = by_factors > plain ? by_factors : plain;
    const size_t room = by_strides > most ? by_strides : most, frame_room = FRAME_HEAD + call.chunk.size + BODY_ROOM;
    uint8_t *memory = scratch_take(room + 2 * frame_room);
    if (!memory) {
        PyErr_NoMemory();
        goto done;
    }
    uint8_t *frame = memory + room;
    int told = EQUAL_SIGN;
    size_t length = 0;
    Py_BEGIN_ALLOW_THREADS;
    if (!call.chunk.size || memcmp(words, call.pointers[0], call.chunk.size)) {
        told = glance(call.task.format, words, call.pointers[0], n, alone);
    }
    if (!told) {
        length = best_body(&call.task, place, &call.chunk, (size_t)limit, memory, &frame, frame_room, &told);
    }
    if (length) {
        memcpy(frame + FRAME_HEAD + length, words + capacity, tail);
        const uint32_t sum = sum_of_frame(frame, FRAME_HEAD + length + tail);
        memcpy(frame + 1, &sum, sizeof sum);
    }
    Py_END_ALLOW_THREADS;
    if (length) {
        result = PyBytes_FromStringAndSize((char *)frame, (Py_ssize_t)(FRAME_HEAD + length + tail));
    } else {
        result = PyLong_FromLong(told);
    }
done:
    scratch_leave(memory);
    call_release(&call);
    return result;
}

static uint8_t *put_double(uint8_t *at, double value) {
    memcpy(at, &value, sizeof value);
    return at + sizeof value;
}

/* Parameters as bytes; those that are fitted take no more than MOST_FITTED * (2 + MAX_RUNS * 10) + 2. */
static uint8_t *predictors_write(uint8_t *at, int dtype_code, const Predictor *predictors, int count) {
    *at++ = (uint8_t)dtype_code;
    *at++ = (uint8_t)count;
    for (int i = 0; i < count; i++) {
        const Predictor *predictor = &predictors[i];
        *at++ = (uint8_t)predictor->kind;
        if (predictor->kind == SCALED) at = put_double(at, predictor->a);
        if (predictor->kind != DECAYED) continue;
        *at++ = (uint8_t)predictor->runs;
        for (int j = 0; j < predictor->runs; j++) {
            uint32_t repeats = predictor->run[j].repeats;
            at = put_double(at, predictor->run[j].factor);
            if (repeats > 0x7F) *at++ = (uint8_t)(repeats | 0x80);
            *at++ = (uint8_t)(repeats > 0x7F ? repeats >> 7 : repeats);
        }
    }
    return at;
}

static PyObject *fit_predictors(PyObject *module, PyObject *args) {
    int dtype_code;
    PyObject *new_words, *old_words;
    Py_ssize_t length;
    double share;
    if (!PyArg_ParseTuple(args, "iOOnd", &dtype_code, &new_words, &old_words, &length, &share)) return NULL;
    Call call;
    if (length < 1) {
        PyErr_SetString(PyExc_ValueError, "a block has at least one word");
        return NULL;
    }
    if (call_begin(&call, module, dtype_code, 0)) return NULL;
    const Format format = call.task.format;
    const size_t word_bytes = (size_t)LAYOUTS[format].word_bytes;
    Bytes *old = &call.references[0];
    PyObject *result = NULL;
    if (bytes_get(&call.chunk, new_words, word_bytes)) return NULL;
    if (bytes_get(old, old_words, word_bytes)) goto done;
    const size_t n = call.chunk.size / word_bytes;
    if (n > MAX_WORDS || n != old->size / word_bytes) {
        PyErr_Format(PyExc_ValueError, "reference of %zu bytes for a sample of %zu", old->size, call.chunk.size);
        goto done;
    }
    void *memory = scratch_take(fit_scratch(format, n));
    if (!memory) {
        PyErr_NoMemory();
        goto done;
    }
    uint8_t found[MOST_FITTED * (2 + MAX_RUNS * 10) + 2], *end;
    Py_BEGIN_ALLOW_THREADS;
    int count = fit(kernels, format, call.chunk.data, old->data, n, (size_t)length, share, call.predictors, memory);
    end = predictors_write(found, dtype_code, call.predictors, count);
    Py_END_ALLOW_THREADS;
    scratch_leave(memory);
    result = PyBytes_FromStringAndSize((char *)found, end - found);
done:
    call_release(&call);
    return result;
}

static PyObject *round_elements(PyObject *module, PyObject *args) {
    int dtype_code, exponent;
    double limit;
    PyObject *chunk, *result = NULL, *bytes = NULL;
    Format format;
    Bytes words = {0};
    (void)module;
    if (!PyArg_ParseTuple(args, "iOid", &dtype_code, &chunk, &exponent, &limit)) return NULL;
    if (format_of(dtype_code, &format)) return NULL;
    if (exponent < -MOST_EXPONENT || exponent > MOST_EXPONENT) {
        PyErr_Format(PyExc_ValueError, "no step is 2^%d", exponent);
        return NULL;
    }
    const size_t word_bytes = (size_t)LAYOUTS[format].word_bytes;
    if (bytes_get(&words, chunk, word_bytes)) return NULL;
    const size_t n = words.size / word_bytes, whole = n * word_bytes;
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)words.size);
    if (bytes) {
        uint8_t *out = (uint8_t *)PyBytes_AsString(bytes);
        Measured measured;
        Py_BEGIN_ALLOW_THREADS;
        measured = round_words(kernels, format, words.data, n, ldexp(1, exponent), limit, out);
        memcpy(out + whole, words.data + whole, words.size - whole);
        Py_END_ALLOW_THREADS;
        result = Py_BuildValue("Oddnn", bytes, measured.most, measured.most_share, (Py_ssize_t)measured.changed,
                               (Py_ssize_t)measured.kept);
        Py_DECREF(bytes);
    }
    bytes_release(&words);
    return result;
}

/* Of the process, and made when they are needed first: two megabytes. */
static const IntegerTables *integer_tables;
static pthread_once_t integer_tables_once = PTHREAD_ONCE_INIT;

static void prepare_integers(void) { integer_tables = integer_tables_make(kernels); }

/* A chunk, or room for one, and its pieces. */
typedef struct {
    PieceTask task;
    Bytes words, reference, plan;
    PyObject *codec_error; /* of the module, which outlives the call */
} PieceCall;

static void piece_call_release(PieceCall *call) {
    bytes_release(&call->words);
    bytes_release(&call->reference);
    bytes_release(&call->plan);
}

static int piece_call_begin(PieceCall *call, int dtype_code, size_t size, PyObject *reference, PyObject *plan) {
    PieceTask *task = &call->task;
    pthread_once(&integer_tables_once, prepare_integers);
    if (!integer_tables) {
        PyErr_NoMemory();
        return -1;
    }
    if (format_of(dtype_code, &task->format)) return -1;
    const size_t word_bytes = (size_t)LAYOUTS[task->format].word_bytes;
    task->n = size / word_bytes;
    if (task->n > MAX_WORDS) {
        PyErr_Format(PyExc_ValueError, "chunk of %zu bytes is too long", size);
        return -1;
    }
    if (reference != Py_None) {
        if (bytes_get(&call->reference, reference, word_bytes)) return -1;
        if (call->reference.size != size) {
            PyErr_Format(call->codec_error, "reference of %zu bytes for a chunk of %zu", call->reference.size, size);
            return -1;
        }
        task->reference = call->reference.data;
    }
    if (bytes_get(&call->plan, plan, sizeof(double))) return -1;
    task->piece = (const Piece *)call->plan.data;
    task->pieces = call->plan.size / sizeof *task->piece;
    if (call->plan.size % sizeof *task->piece || !pieces_fit(task)) {
        PyErr_SetString(call->codec_error, "pieces do not fit their chunk, or a tensor of its dtype");
        return -1;
    }
    return 0;
}

/* For a chunk that is to be looked at: dtype, its bytes, those of the reference, pieces. */
static int piece_call_words(PieceCall *call, PyObject *module, PyObject *args) {
    int dtype_code;
    PyObject *chunk, *reference, *plan;
    memset(call, 0, sizeof *call);
    call->codec_error = codec_error_of(module);
    if (!PyArg_ParseTuple(args, "iOOO", &dtype_code, &chunk, &reference, &plan)) return -1;
    if (bytes_get(&call->words, chunk, 4)) return -1;
    return piece_call_begin(call, dtype_code, call->words.size, reference, plan);
}

static PyObject *survey_pieces(PyObject *module, PyObject *args) {
    PyObject *result = NULL;
    PieceCall call;
    if (piece_call_words(&call, module, args)) goto done;
    const PieceTask *task = &call.task;
    const size_t word_bytes = (size_t)LAYOUTS[task->format].word_bytes;
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(task->pieces * sizeof(Survey)));
    if (result) {
        Survey *surveys = (Survey *)PyBytes_AsString(result);
        Py_BEGIN_ALLOW_THREADS;
        size_t start = 0; /* in bytes */
        for (size_t i = 0; i < task->pieces; start += task->piece[i++].words * word_bytes) {
            const uint8_t *beside = task->reference ? (const uint8_t *)task->reference + start : NULL;
            Survey survey;
            survey_words(task->format, call.words.data + start, beside, task->piece[i].words, &survey);
            memcpy(&surveys[i], &survey, sizeof survey);
        }
        Py_END_ALLOW_THREADS;
    }
done:
    piece_call_release(&call);
    return result;
}

static PyObject *fit_pieces(PyObject *module, PyObject *args) {
    PyObject *result = NULL;
    PieceCall call;
    if (piece_call_words(&call, module, args)) goto done;
    if (!call.task.reference) {
        PyErr_SetString(PyExc_ValueError, "without a reference there is nothing to multiply");
        goto done;
    }
    const size_t length = call.task.pieces * sizeof(double);
    uint8_t *memory = scratch_take(FIT_SCRATCH + length);
    if (!memory) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    pieces_fit_factors(kernels, &call.task, call.words.data, (double *)(memory + FIT_SCRATCH), memory);
    Py_END_ALLOW_THREADS;
    result = PyBytes_FromStringAndSize((char *)memory + FIT_SCRATCH, (Py_ssize_t)length);
    scratch_leave(memory);
done:
    piece_call_release(&call);
    return result;
}

static PyObject *encode_pieces(PyObject *module, PyObject *args) {
    PyObject *result = NULL;
    PieceCall call;
    if (piece_call_words(&call, module, args)) goto done;
    const size_t scratch = pieces_encode_scratch(&call.task), most = pieces_most(&call.task);
    uint8_t *memory = scratch_take(scratch + call.task.n + most);
    if (!memory) {
        PyErr_NoMemory();
        goto done;
    }
    uint8_t *marks = memory + scratch, *core = marks + call.task.n;
    size_t length;
    bool any;
    Py_BEGIN_ALLOW_THREADS;
    length = pieces_encode(kernels, integer_tables, &call.task, call.words.data, core, marks, &any, memory);
    Py_END_ALLOW_THREADS;
    result = Py_BuildValue("y#y#", (char *)core, (Py_ssize_t)length, (char *)marks, (Py_ssize_t)(any ? call.task.n : 0));
    scratch_leave(memory);
done:
    piece_call_release(&call);
    return result;
}

static PyObject *decode_pieces(PyObject *module, PyObject *args) {
    int dtype_code;
    Py_ssize_t size;
    PyObject *core, *reference, *plan, *result = NULL;
    PieceCall call;
    if (!PyArg_ParseTuple(args, "iOnOO", &dtype_code, &core, &size, &reference, &plan)) return NULL;
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "a chunk has no negative size");
        return NULL;
    }
    memset(&call, 0, sizeof call);
    call.codec_error = codec_error_of(module);
    if (bytes_get(&call.words, core, 1)) return NULL;
    if (piece_call_begin(&call, dtype_code, (size_t)size, reference, plan)) goto done;
    void *memory = scratch_take(pieces_decode_scratch(&call.task));
    if (!memory) {
        PyErr_NoMemory();
        goto done;
    }
    result = PyBytes_FromStringAndSize(NULL, size);
    if (result) {
        uint8_t *out = (uint8_t *)PyBytes_AsString(result);
        const size_t whole = call.task.n * (size_t)LAYOUTS[call.task.format].word_bytes;
        const char *wrong;
        Py_BEGIN_ALLOW_THREADS;
        wrong = pieces_decode(kernels, integer_tables, &call.task, call.words.data, call.words.size, out, memory);
        memset(out + whole, 0, (size_t)size - whole);
        Py_END_ALLOW_THREADS;
        if (wrong) {
            Py_DECREF(result);
            result = NULL;
            PyErr_Format(call.codec_error, "integers of %zu bytes: %s", call.words.size, wrong);
        }
    }
    scratch_leave(memory);
done:
    piece_call_release(&call);
    return result;
}

static PyObject *tell_pieces(PyObject *module, PyObject *args) {
    PyObject *plan, *result = NULL;
    int delta;
    Bytes bytes = {0};
    (void)module;
    if (!PyArg_ParseTuple(args, "Op", &plan, &delta)) return NULL;
    if (bytes_get(&bytes, plan, sizeof(double))) return NULL;
    const Piece *pieces = (const Piece *)bytes.data;
    const size_t count = bytes.size / sizeof *pieces;
    uint8_t *memory = NULL;
    if (bytes.size % sizeof *pieces || !pieces_can_be_told(pieces, count)) {
        PyErr_SetString(PyExc_ValueError, "pieces of what cannot be told, or of too many kinds");
        goto done;
    }
    memory = scratch_take(MOST_TOLD * (count + MOST_GRIDS));
    if (!memory) {
        PyErr_NoMemory();
        goto done;
    }
    result = PyBytes_FromStringAndSize((char *)memory, (Py_ssize_t)pieces_tell(pieces, count, delta, memory));
    scratch_leave(memory);
done:
    bytes_release(&bytes);
    return result;
}

static PyObject *read_pieces(PyObject *module, PyObject *args) {
    PyObject *body, *pieces = NULL, *result = NULL;
    Py_ssize_t words;
    int delta;
    Bytes bytes = {0};
    if (!PyArg_ParseTuple(args, "Onp", &body, &words, &delta)) return NULL;
    if (words < 0) {
        PyErr_SetString(PyExc_ValueError, "a chunk has no negative number of words");
        return NULL;
    }
    if (bytes_get(&bytes, body, 1)) return NULL;
    ToldReader told;
    const uint8_t *at;
    const char *wrong = words > MAX_WORDS ? "too many words" : NULL;
    if (!wrong) wrong = told_begin(&told, bytes.data, bytes.data + bytes.size, (size_t)words, delta);
    if (!wrong) {
        pieces = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(told.pieces * sizeof(Piece)));
        if (!pieces) goto done;
        Piece *found = scratch_take(told.pieces * sizeof *found);
        if (!found) {
            PyErr_NoMemory();
            goto done;
        }
        wrong = told_pieces(&told, found, &at);
        if (!wrong) memcpy(PyBytes_AsString(pieces), found, told.pieces * sizeof *found);
        scratch_leave(found);
    }
    if (wrong) {
        PyErr_Format(codec_error_of(module), "pieces of %zd words: %s", words, wrong);
    } else {
        result = Py_BuildValue("On", pieces, (Py_ssize_t)(at - bytes.data));
    }
done:
    Py_XDECREF(pieces);
    bytes_release(&bytes);
    return result;
}

static PyObject *use(PyObject *module, PyObject *args) {
    const char *name;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &name)) return NULL;
    const Kernels *known[] = {&kernels_plain,
#if defined(__x86_64__)
                              &kernels_avx2, &kernels_avx512,
#endif
    };
    const Kernels *best = kernels_best();
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i]->name, name) == 0) {
            kernels = known[i];
            Py_RETURN_NONE;
        }
        if (known[i] == best) break;
    }
    PyErr_Format(PyExc_ValueError, "this machine has no kernels %s", name);
    return NULL;
}

static PyObject *level(PyObject *module, PyObject *args) {
    (void)module;
    (void)args;
    return PyUnicode_FromString(kernels->name);
}

static PyMethodDef methods[] = {
    {"glance", glance_at, METH_VARARGS, "The signs of a chunk, and whether it is the reference."},
    {"ends", ends, METH_VARARGS, "Where the bits of words end, and how many have theirs there."},
    {"encode_delta", encode_delta, METH_VARARGS, "The body of a residual-rans frame, or None where it would be no shorter."},
    {"encode_keyframe", encode_keyframe, METH_VARARGS, "The body of a levels-rans frame, or None."},
    {"encode_frame", encode_frame, METH_VARARGS, "The frame of a chunk that shows no signs, or these."},
    {"decode_frame", decode_frame, METH_VARARGS, "The bytes of a frame, or None where others made it."},
    {"frame_decodes_to", frame_decodes_to, METH_VARARGS, "Whether these are the bytes of a frame, or None."},
    {"fit", fit_predictors, METH_VARARGS, "Parameters with the predictors that do best on a sample."},
    {"round_elements", round_elements, METH_VARARGS, "Elements at multiples of a step within a limit, and what was measured."},
    {"survey_pieces", survey_pieces, METH_VARARGS, "Where the bits of the words of pieces end."},
    {"tell_pieces", tell_pieces, METH_VARARGS, "What says of pieces what they are."},
    {"read_pieces", read_pieces, METH_VARARGS, "The pieces that were told, and how many bytes told them."},
    {"fit_pieces", fit_pieces, METH_VARARGS, "What the references of pieces are best multiplied with."},
    {"encode_pieces", encode_pieces, METH_VARARGS, "The integers of pieces, coded, and which words have none."},
    {"decode_pieces", decode_pieces, METH_VARARGS, "The words that have integers."},
    {"use", use, METH_VARARGS, "Use the kernels of this name from now on."},
    {"level", level, METH_NOARGS, "The name of the kernels in use."},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module) {
    State *state = PyModule_GetState(module);
    PyObject *errors = PyImport_ImportModule("modelvault.codec.errors");
    if (!errors) return -1;
    state->codec_error = PyObject_GetAttrString(errors, "CodecError");
    Py_DECREF(errors);
    if (!state->codec_error) return -1;
    pthread_once(&once, prepare_process);
    if (key_failure) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    State *state = PyModule_GetState(module);
    if (state) Py_VISIT(state->codec_error);
    return 0;
}

static int clear(PyObject *module) {
    State *state = PyModule_GetState(module);
    if (state) Py_CLEAR(state->codec_error);
    return 0;
}

static void discard(void *module) { clear(module); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The codecs residual-rans and levels-rans in C.",
    .m_size = sizeof(State),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = discard,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
