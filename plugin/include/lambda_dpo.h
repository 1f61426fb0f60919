/*
 * lambda_dpo.h: the C interface of liblambda_dpo, the lambda-DPO plugin.
 *
 * Generated from plugin/abi by `make generate`. Do not edit.
 *
 * Ask for the function table once, then call through it:
 *
 *     const LambdaDpoApi *api = NULL;
 *     LambdaDpoStatus status = lambda_dpo_get_api(LAMBDA_DPO_ABI_MAJOR, LAMBDA_DPO_ABI_MINOR, &api, NULL);
 *
 * Tensors cross as DLPack, tables as Arrow C streams. This header declares DLPack's structs itself unless a dlpack.h
 * (1.0 or newer) was included before it; if both are needed, include dlpack.h first. Arrow's structs are in Arrow's own
 * guards, so Arrow's headers may come before or after this one.
 *
 * Ownership, threads and errors: see LambdaDpoApi. Valid C11 and C++17.
 */

#ifndef LAMBDA_DPO_H
#define LAMBDA_DPO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef DLPACK_DLPACK_H_

/**
 * Version of the DLPack structs; equal majors are compatible.
 */
typedef struct DLPackVersion {
    /**
     * Major version.
     */
    uint32_t major;
    /**
     * Minor version.
     */
    uint32_t minor;
} DLPackVersion;

/**
 * Where a tensor lives.
 */
typedef struct DLDevice {
    /**
     * LAMBDA_DPO_DL_CPU or LAMBDA_DPO_DL_CUDA here.
     */
    int32_t device_type;
    /**
     * Ordinal of the device; 0 on the CPU.
     */
    int32_t device_id;
} DLDevice;

/**
 * Element type of a tensor.
 */
typedef struct DLDataType {
    /**
     * One of the LAMBDA_DPO_DL_* type codes.
     */
    uint8_t code;
    /**
     * Bits of one element.
     */
    uint8_t bits;
    /**
     * Always 1 here.
     */
    uint16_t lanes;
} DLDataType;

/**
 * A strided view of memory.
 */
typedef struct DLTensor {
    /**
     * Start of the allocation; NULL for an empty tensor.
     */
    void *data;
    /**
     * Where it lives.
     */
    struct DLDevice device;
    /**
     * Number of dimensions; 0 for a scalar.
     */
    int32_t ndim;
    /**
     * Element type.
     */
    struct DLDataType dtype;
    /**
     * `ndim` sizes.
     */
    int64_t *shape;
    /**
     * `ndim` strides in elements (0 for an expanded dimension); NULL means row-major and compact.
     */
    int64_t *strides;
    /**
     * Bytes from `data` to the first element.
     */
    uint64_t byte_offset;
} DLTensor;

/**
 * A tensor with its owner.
 */
typedef struct DLManagedTensorVersioned {
    /**
     * Version of this struct.
     */
    struct DLPackVersion version;
    /**
     * The owner's own.
     */
    void *manager_ctx;
    /**
     * Frees the tensor and this struct; called once, by whoever owns it. May be NULL.
     */
    void (*deleter)(struct DLManagedTensorVersioned*);
    /**
     * LAMBDA_DPO_DLPACK_FLAG_READ_ONLY and other bits.
     */
    uint64_t flags;
    /**
     * The tensor.
     */
    struct DLTensor dl_tensor;
} DLManagedTensorVersioned;

#endif /* DLPACK_DLPACK_H_ */

/**
 * Main memory.
 */
#define LAMBDA_DPO_DL_CPU 1

/**
 * CUDA device memory.
 */
#define LAMBDA_DPO_DL_CUDA 2

/**
 * Signed integer.
 */
#define LAMBDA_DPO_DL_INT 0

/**
 * Unsigned integer.
 */
#define LAMBDA_DPO_DL_UINT 1

/**
 * IEEE floating point.
 */
#define LAMBDA_DPO_DL_FLOAT 2

/**
 * bfloat16.
 */
#define LAMBDA_DPO_DL_BFLOAT 4

/**
 * Boolean, one byte each.
 */
#define LAMBDA_DPO_DL_BOOL 6

/**
 * The tensor must not be written to.
 */
#define LAMBDA_DPO_DLPACK_FLAG_READ_ONLY 1

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE

#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4

/**
 * Arrow's C data interface: the type of an array.
 */
struct ArrowSchema {
    /**
     * The type, in Arrow's format strings.
     */
    const char *format;
    /**
     * Name of the field; may be NULL.
     */
    const char *name;
    /**
     * Encoded key-value metadata; may be NULL.
     */
    const char *metadata;
    /**
     * A sum of `ARROW_FLAG_*`.
     */
    int64_t flags;
    /**
     * How many children.
     */
    int64_t n_children;
    /**
     * Child types.
     */
    struct ArrowSchema **children;
    /**
     * Type of the dictionary's values; NULL where there is none.
     */
    struct ArrowSchema *dictionary;
    /**
     * Called once by the consumer; NULL marks a released struct.
     */
    void (*release)(struct ArrowSchema*);
    /**
     * The producer's own.
     */
    void *private_data;
};

/**
 * Arrow's C data interface: an array.
 */
struct ArrowArray {
    /**
     * Number of items.
     */
    int64_t length;
    /**
     * Number of nulls; −1 where it is not known.
     */
    int64_t null_count;
    /**
     * Items before the first one.
     */
    int64_t offset;
    /**
     * How many buffers.
     */
    int64_t n_buffers;
    /**
     * How many children.
     */
    int64_t n_children;
    /**
     * Buffers; which ones depends on the type.
     */
    const void **buffers;
    /**
     * Child arrays.
     */
    struct ArrowArray **children;
    /**
     * The dictionary's values; NULL where there is none.
     */
    struct ArrowArray *dictionary;
    /**
     * Called once by the consumer; NULL marks a released struct, and the end of a stream.
     */
    void (*release)(struct ArrowArray*);
    /**
     * The producer's own.
     */
    void *private_data;
};

#endif /* ARROW_C_DATA_INTERFACE */

#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE

/**
 * Arrow's C stream interface: arrays of one schema, one after another. One thread at a time.
 */
struct ArrowArrayStream {
    /**
     * Gives the schema of every array; 0, or an `errno` code.
     */
    int (*get_schema)(struct ArrowArrayStream*, struct ArrowSchema *out);
    /**
     * Gives the next array, a released one at the end; 0, or an `errno` code.
     */
    int (*get_next)(struct ArrowArrayStream*, struct ArrowArray *out);
    /**
     * NUL-terminated text about the last failure, valid until the next call; NULL where there is none.
     */
    const char *(*get_last_error)(struct ArrowArrayStream*);
    /**
     * Called once by the consumer; NULL marks a released stream.
     */
    void (*release)(struct ArrowArrayStream*);
    /**
     * The producer's own.
     */
    void *private_data;
};

#endif /* ARROW_C_STREAM_INTERFACE */

/**
 * Streams samples out of record files or an Arrow stream. One thread at a time.
 */
typedef struct LambdaDpoReader LambdaDpoReader;

/**
 * A tokenizer with its chat template. Any number of threads at once.
 */
typedef struct LambdaDpoTokenizer LambdaDpoTokenizer;

/**
 * One tokenised sample. Any number of threads at once.
 */
typedef struct LambdaDpoTokenizedSample LambdaDpoTokenizedSample;

/**
 * Tokenised records, ready to be batched. Any number of threads at once.
 */
typedef struct LambdaDpoDataset LambdaDpoDataset;

/**
 * A λ schedule. Any number of threads at once.
 */
typedef struct LambdaDpoSchedule LambdaDpoSchedule;

/**
 * What a backward needs from its forward. Used once, from any one thread.
 */
typedef struct LambdaDpoLossContext LambdaDpoLossContext;

/**
 * Major version of the table: a library of another major is another interface.
 */
#define LAMBDA_DPO_ABI_MAJOR 1

/**
 * Minor version of the table: grows by one with every revision that adds functions or fields at an end.
 */
#define LAMBDA_DPO_ABI_MINOR 0

/**
 * UltraFeedback's schema: `instruction` and rated `completions`.
 */
#define LAMBDA_DPO_FORMAT_ULTRAFEEDBACK 0

/**
 * `prompt`, `chosen`, `rejected`.
 */
#define LAMBDA_DPO_FORMAT_PAIRS 1

/**
 * `messages`, or ShareGPT's `conversations`.
 */
#define LAMBDA_DPO_FORMAT_CHAT 2

/**
 * M·N padded rows per prompt.
 */
#define LAMBDA_DPO_LAYOUT_EXPANDED 0

/**
 * N padded rows per prompt.
 */
#define LAMBDA_DPO_LAYOUT_ROWS 1

/**
 * One row holds one or several prompts, each followed by its responses.
 */
#define LAMBDA_DPO_LAYOUT_PACKED 2

/**
 * Batches that a dataset holds collated ahead.
 */
#define LAMBDA_DPO_PREFETCH_CAPACITY 64

/**
 * λ = u / Σ u with u uniform on (0, 1)^M.
 */
#define LAMBDA_DPO_SCHEDULE_UNIFORM_NORMALIZED 0

/**
 * λ ~ Dir(α·1).
 */
#define LAMBDA_DPO_SCHEDULE_DIRICHLET 1

/**
 * λ = softmax(z), z ~ N(0, I).
 */
#define LAMBDA_DPO_SCHEDULE_GAUSSIAN 2

/**
 * λ = |z| / Σ |z|, z ~ N(0, I).
 */
#define LAMBDA_DPO_SCHEDULE_GAUSSIAN_ABS 3

/**
 * One-hot at a fixed dimension.
 */
#define LAMBDA_DPO_SCHEDULE_UNIMODAL 4

/**
 * One-hot, cycling through the dimensions with the record index and epoch (or the step).
 */
#define LAMBDA_DPO_SCHEDULE_UNIMODAL_CYCLE 5

/**
 * Always the same λ.
 */
#define LAMBDA_DPO_SCHEDULE_FIXED 6

/**
 * Rows of λ drawn by probability.
 */
#define LAMBDA_DPO_SCHEDULE_TABLE 7

/**
 * λ-DPO: the listwise cross-entropy against the λ-mixed targets (15).
 */
#define LAMBDA_DPO_OBJECTIVE_LISTWISE 0

/**
 * Mean negative log-likelihood of the target tokens.
 */
#define LAMBDA_DPO_OBJECTIVE_SFT 1

/**
 * s is the sum of a response's token log-probs.
 */
#define LAMBDA_DPO_REDUCTION_SUM 0

/**
 * s is their mean.
 */
#define LAMBDA_DPO_REDUCTION_MEAN 1

/**
 * A gradient for `hidden` is wanted.
 */
#define LAMBDA_DPO_WANTS_HIDDEN 1

/**
 * A gradient for `lm_head` is wanted.
 */
#define LAMBDA_DPO_WANTS_LM_HEAD 2

/**
 * A gradient for `logits` is wanted.
 */
#define LAMBDA_DPO_WANTS_LOGITS 4

/**
 * A gradient for `sequence_log_probs` is wanted.
 */
#define LAMBDA_DPO_WANTS_SEQUENCE_LOG_PROBS 8

/**
 * What every call returns: LAMBDA_DPO_STATUS_OK or what kind of failure the error's message tells of.
 */
typedef int32_t LambdaDpoStatus;

/**
 * Borrowed UTF-8 text: pointer and length in bytes, not NUL-terminated. `data` may be NULL where `len` is 0.
 *
 * Valid until the call returns when passed in; for the library's life when it comes out (only LambdaDpoBuildInfo does that).
 */
typedef struct LambdaDpoStr {
    /**
     * First byte.
     */
    const uint8_t *data;
    /**
     * Length in bytes.
     */
    size_t len;
} LambdaDpoStr;

/**
 * Text or bytes owned by the caller, given by the plugin: hand it to `bytes_free` once.
 */
typedef struct LambdaDpoBytes {
    /**
     * First byte; NULL where there is nothing (the end of a reader).
     */
    uint8_t *data;
    /**
     * Length in bytes.
     */
    size_t len;
    /**
     * The plugin's own.
     */
    size_t capacity;
} LambdaDpoBytes;

/**
 * Where a failing call writes its sentence. Owned by the caller, who also owns `buffer`; every call takes it or NULL.
 */
typedef struct LambdaDpoError {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Receives UTF-8, cut at a character where `capacity` is short; not NUL-terminated. May be NULL.
     */
    uint8_t *buffer;
    /**
     * Bytes that `buffer` holds.
     */
    size_t capacity;
    /**
     * Out: bytes of the whole message, which may exceed `capacity`. 0 after success.
     */
    size_t len;
} LambdaDpoError;

/**
 * Called now and then during long work, on the thread of the call; a return other than 0 asks the call to stop, which
 * then fails with LAMBDA_DPO_STATUS_CANCELLED. `total` is 0 where it is not known.
 */
typedef int32_t (*LambdaDpoProgress)(void *user, uint64_t done, uint64_t total);

/**
 * A tensor in or out; NULL where a field is optional.
 *
 * In: borrowed for the call, its deleter is never called. Out: owned by the caller, who calls its deleter.
 */
typedef DLManagedTensorVersioned *LambdaDpoTensor;

/**
 * The result of collation: tensors on the CPU, owned by the caller.
 *
 * A field that the caller keeps is taken out by setting it to NULL; `batch_free` frees the others. R rows of T tokens,
 * B prompts, M dimensions, C candidate responses (the sum of N over the prompts), S sequences (C, or M·C in the expanded
 * layout), K target tokens. All integers are int64.
 */
typedef struct LambdaDpoBatch {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * `[R, T]` token ids; the pad id where there is no token.
     */
    LambdaDpoTensor input_ids;
    /**
     * `[R, T]` 1 at tokens, 0 at padding.
     */
    LambdaDpoTensor attention_mask;
    /**
     * `[R, T]` position of each token in its own sequence (restarts after the prompt for each packed response).
     */
    LambdaDpoTensor position_ids;
    /**
     * `[R, T]` the token itself where it is a target, −100 elsewhere.
     */
    LambdaDpoTensor labels;
    /**
     * `[R, T]` which prompt of the batch a token belongs to, −1 at padding.
     */
    LambdaDpoTensor prompt_ids;
    /**
     * `[R, T]` which sequence a response token belongs to, −1 at prompt tokens and padding.
     *
     * A token attends to itself and to those before it in its row that have the same prompt id and either the same
     * sequence id or −1.
     */
    LambdaDpoTensor sequence_ids;
    /**
     * `[K]` index into the flattened `[R·T]` of the position whose hidden state predicts each target.
     */
    LambdaDpoTensor target_positions;
    /**
     * `[K]` the token to predict.
     */
    LambdaDpoTensor target_ids;
    /**
     * `[K]` the sequence each target belongs to, ascending.
     */
    LambdaDpoTensor target_sequences;
    /**
     * `[S]` number of target tokens of each sequence.
     */
    LambdaDpoTensor sequence_num_tokens;
    /**
     * `[S]` which prompt of the batch each sequence answers.
     */
    LambdaDpoTensor sequence_prompts;
    /**
     * `[S]` which response of its record each sequence is, counted before any were dropped.
     */
    LambdaDpoTensor sequence_responses;
    /**
     * `[B + 1]` responses of prompt b are the columns `prompt_offsets[b] .. prompt_offsets[b + 1]` of the C.
     */
    LambdaDpoTensor prompt_offsets;
    /**
     * `[M, C]` the sequence that stands for a response in a dimension: the same in all, but for the expanded layout.
     */
    LambdaDpoTensor sequence_index;
    /**
     * `[M, C]` float32 target distribution of each dimension over each prompt's responses; 0 where masked.
     */
    LambdaDpoTensor pi_target;
    /**
     * `[M, C]` bool: the dimension counts for this prompt and rates this response.
     */
    LambdaDpoTensor target_mask;
    /**
     * `[B, M]` float32 λ' : λ renormalised over the dimensions that count for the prompt; all 0 where none has weight.
     */
    LambdaDpoTensor lambda;
    /**
     * `[B]` position of each record in the concatenated inputs.
     */
    LambdaDpoTensor record_indices;
    /**
     * Prompts with a dimension of positive weight: what the loss is a mean over.
     */
    uint64_t num_contributing;
} LambdaDpoBatch;

/**
 * A linear layer's worth of inputs to log-probs and loss: exactly one of hidden states with LM head, logits, or
 * sequence log-probs, and the targets. All borrowed for the call.
 *
 * R rows of T tokens and so on as in LambdaDpoBatch, H hidden size, V vocabulary size.
 */
typedef struct LambdaDpoLossInputs {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * `[R, T, H]` or `[R·T, H]` final hidden states, after the last norm.
     */
    LambdaDpoTensor hidden;
    /**
     * `[V, H]` weight of the LM head; goes with `hidden`.
     */
    LambdaDpoTensor lm_head;
    /**
     * `[R, T, V]` or `[R·T, V]`.
     */
    LambdaDpoTensor logits;
    /**
     * `[S]` finished sequence log-probs (sums, or means under the mean reduction); needs no targets.
     */
    LambdaDpoTensor sequence_log_probs;
    /**
     * `[K]` int64, see LambdaDpoBatch.
     */
    LambdaDpoTensor target_positions;
    /**
     * `[K]` int64, see LambdaDpoBatch.
     */
    LambdaDpoTensor target_ids;
    /**
     * `[K]` int64, see LambdaDpoBatch.
     */
    LambdaDpoTensor target_sequences;
    /**
     * S.
     */
    uint64_t num_sequences;
    /**
     * `[S]` sequence log-probs under the reference, reduced as the loss is told to; NULL is s^ref = 0.
     */
    LambdaDpoTensor reference_log_probs;
    /**
     * `[B + 1]` int64; listwise objective only, as are the following.
     */
    LambdaDpoTensor prompt_offsets;
    /**
     * `[M, C]` int64; NULL where response c is sequence c in every dimension.
     */
    LambdaDpoTensor sequence_index;
    /**
     * `[M, C]` floating.
     */
    LambdaDpoTensor pi_target;
    /**
     * `[M, C]` bool; NULL where every dimension rates every response.
     */
    LambdaDpoTensor target_mask;
    /**
     * `[B, M]` floating.
     */
    LambdaDpoTensor lambda;
    /**
     * The `cudaStream_t` on which the call's work is queued, for tensors on a CUDA device: they must be ready, and the
     * outputs will be, in the stream's order. NULL stands for libtorch's current stream of the calling thread, as a
     * trainer over PyTorch wants it; CUDA's own handles 1 and 2 for the legacy and the per-thread default stream.
     */
    void *cuda_stream;
} LambdaDpoLossInputs;

/**
 * What the loss's forward returns; tensors owned by the caller, on the device of the inputs.
 */
typedef struct LambdaDpoLossOutputs {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * `[]` float64 the loss, divided by the normaliser.
     */
    LambdaDpoTensor loss;
    /**
     * `[K]` float32 (float64 for float64 inputs); NULL where sequence log-probs came in.
     */
    LambdaDpoTensor token_log_probs;
    /**
     * `[S]` sums (or means under the mean reduction), dtype as above.
     */
    LambdaDpoTensor sequence_log_probs;
    /**
     * `[S]` float64 β (s − s^ref); NULL for the SFT objective, as are the following.
     */
    LambdaDpoTensor rewards;
    /**
     * `[B]` float64 Σ_k λ'_k L^(k); 0 for a prompt that does not contribute.
     */
    LambdaDpoTensor prompt_losses;
    /**
     * `[B, M]` float64 L^(k); 0 where the dimension does not count for the prompt.
     */
    LambdaDpoTensor dimension_losses;
    /**
     * `[B, M]` bool: the dimension counts for the prompt.
     */
    LambdaDpoTensor dimension_mask;
    /**
     * `[B]` float64: 1 where the response of highest reward is best under λ', ties sharing the credit.
     */
    LambdaDpoTensor accuracies;
    /**
     * `[B, M]` float64: the same under each dimension's own target.
     */
    LambdaDpoTensor dimension_accuracies;
    /**
     * `[B]` float64 reward of the best minus reward of the worst response under λ'.
     */
    LambdaDpoTensor margins;
} LambdaDpoLossOutputs;

/**
 * What the loss's backward returns: gradients in their inputs' dtypes, NULL for those not asked for.
 */
typedef struct LambdaDpoLossGradients {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Shape of `hidden`.
     */
    LambdaDpoTensor hidden;
    /**
     * `[V, H]`.
     */
    LambdaDpoTensor lm_head;
    /**
     * Shape of `logits`.
     */
    LambdaDpoTensor logits;
    /**
     * `[S]`.
     */
    LambdaDpoTensor sequence_log_probs;
} LambdaDpoLossGradients;

/**
 * What was built; strings live as long as the library.
 */
typedef struct LambdaDpoBuildInfo {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Version of the plugin.
     */
    struct LambdaDpoStr version;
    /**
     * Version of torch it was built against and must run with.
     */
    struct LambdaDpoStr torch_version;
} LambdaDpoBuildInfo;

/**
 * How records are read and converted.
 */
typedef struct LambdaDpoConvertOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * One of the LAMBDA_DPO_FORMAT_*.
     */
    uint32_t format;
    /**
     * 1: reduce each rated record to its best and worst response under the mean rating, as one pair; records whose best
     * and worst tie are skipped and counted.
     */
    uint32_t best_worst_pairs;
    /**
     * Names of the dimensions, in order; NULL takes every name that the inputs use, sorted.
     */
    const struct LambdaDpoStr *dimensions;
    /**
     * How many.
     */
    size_t num_dimensions;
    /**
     * The rating of a response that has none; NaN masks it instead.
     */
    double missing_rating;
    /**
     * Temperature of the softmax over ratings, above 0.
     */
    double temperature;
    /**
     * Records to read at most; 0 for all.
     */
    uint64_t max_samples;
    /**
     * Records whose `source` is one of these are left out and counted.
     */
    const struct LambdaDpoStr *exclude_sources;
    /**
     * How many.
     */
    size_t num_exclude_sources;
    /**
     * 1: keep every record that parses, rated or not, whatever its number of responses (scoring needs no ratings).
     */
    uint32_t keep_all;
    /**
     * 0; kept for a later version.
     */
    uint32_t reserved;
} LambdaDpoConvertOptions;

/**
 * How samples become tokens.
 */
typedef struct LambdaDpoTokenizeOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Bound on prompt + longest response in tokens; 0 for none.
     */
    uint64_t cutoff_len;
    /**
     * 1: keep samples with fewer than two responses, and responses without a token (scoring).
     */
    uint32_t keep_all;
    /**
     * 0; kept for a later version.
     */
    uint32_t reserved;
} LambdaDpoTokenizeOptions;

/**
 * How samples become a batch.
 */
typedef struct LambdaDpoCollateOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * One of the LAMBDA_DPO_LAYOUT_*.
     */
    uint32_t layout;
    /**
     * Packed layout: prompts share a row while it holds at most this many tokens; 0 for one prompt a row.
     */
    uint64_t max_tokens;
    /**
     * Rows are padded to a multiple of this; 0 for 8.
     */
    uint64_t pad_to_multiple_of;
    /**
     * The id that fills padding.
     */
    int64_t pad_token_id;
} LambdaDpoCollateOptions;

/**
 * How a dataset is opened: stages 1 to 3 with the same options as the finer calls.
 */
typedef struct LambdaDpoDatasetOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * Borrowed for the call.
     */
    const struct LambdaDpoConvertOptions *convert;
    /**
     * Borrowed for the call.
     */
    const struct LambdaDpoTokenizeOptions *tokenize;
    /**
     * Told the number of records done, now and then (0 while files are hashed for the cache); may be NULL.
     */
    LambdaDpoProgress progress;
    /**
     * Passed to `progress`.
     */
    void *progress_user;
    /**
     * Folder of files that hold tokenised records for later openings, under a hash of the records' contents, the
     * tokenizer and all options; made where it is missing. One file may serve any number of processes. Empty: the tokens
     * lie in a file without a name in the system's folder for temporary files, and go with the dataset.
     */
    struct LambdaDpoStr cache_dir;
} LambdaDpoDatasetOptions;

/**
 * A λ schedule. Equations: METHOD, "λ schedules".
 */
typedef struct LambdaDpoScheduleOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * One of the LAMBDA_DPO_SCHEDULE_*.
     */
    uint32_t kind;
    /**
     * Index of the dimension (unimodal).
     */
    uint32_t dimension;
    /**
     * M.
     */
    size_t num_dimensions;
    /**
     * α of the Dirichlet distribution, above 0.
     */
    double alpha;
    /**
     * `[M]` (fixed) or `[rows, M]` (table), row-major; each row must come to 1 within 1e-3 and is renormalised.
     */
    const double *weights;
    /**
     * Rows of `weights` (table); 1 for fixed.
     */
    size_t num_rows;
    /**
     * `[rows]` sampling weights of the table's rows, at least 0, not all 0.
     */
    const double *probabilities;
} LambdaDpoScheduleOptions;

/**
 * How log-probs and loss are computed.
 */
typedef struct LambdaDpoLossOptions {
    /**
     * `sizeof` of this struct as the caller knows it.
     */
    size_t struct_size;
    /**
     * One of the LAMBDA_DPO_OBJECTIVE_*.
     */
    uint32_t objective;
    /**
     * One of the LAMBDA_DPO_REDUCTION_*.
     */
    uint32_t reduction;
    /**
     * β (17), above 0.
     */
    double beta;
    /**
     * What the loss is divided by: contributing prompts (listwise) or target tokens (SFT) of the whole optimiser step;
     * 0 takes those of this call.
     */
    double normalizer;
    /**
     * Bytes of logits that may be alive at once; 0 for the default of 256 MiB.
     */
    uint64_t logits_budget_bytes;
    /**
     * 1: add 1e-10 to the targets as Appendix B does.
     */
    uint32_t paper_exact;
    /**
     * Which gradients backward will be asked for: a sum of LAMBDA_DPO_WANTS_*; 0 keeps nothing for a backward.
     */
    uint32_t wants;
} LambdaDpoLossOptions;

/**
 * The function table, revision 1.0.
 *
 * # Growth
 *
 * The table, and every struct that starts with `struct_size`, only ever grows at its end. A table of a later minor
 * version serves callers of an earlier one, who do not look beyond what they know.
 *
 * A caller sets `struct_size` to the struct's `sizeof` in the header it was compiled with, and zeroes what it does not
 * set. What a shorter struct leaves out counts as zero, which always stands for the behaviour before the field was
 * added; outputs beyond its end are not written (and nothing is left to free for them). The fields of revision 1.0
 * cannot be left out. A longer struct, from a header later than the plugin, is accepted where the fields that the
 * plugin does not know are all zero, and refused with LAMBDA_DPO_STATUS_UNSUPPORTED else; of an
 * output struct the plugin leaves them as they are.
 *
 * # Rules for every function
 *
 * - Returns a status; on failure fills `error` (which may be NULL) with a sentence and leaves its outputs untouched.
 * - Arguments are borrowed for the call; what comes out is owned by the caller and freed by the function named beside it.
 * - Any thread may call; a handle says how many threads may use it at once.
 * - A handle is a number, not an address, and no number is given twice: one that was freed, or is of another kind, is
 *   refused with LAMBDA_DPO_STATUS_INVALID_ARGUMENT. Freeing NULL, or a second time, does nothing.
 * - A panic inside becomes LAMBDA_DPO_STATUS_PANIC and poisons the handle; the process lives.
 */
typedef struct LambdaDpoApi {
    /**
     * `sizeof` of this table as the plugin knows it.
     */
    size_t struct_size;
    /**
     * LAMBDA_DPO_ABI_MAJOR of the plugin.
     */
    uint32_t major;
    /**
     * LAMBDA_DPO_ABI_MINOR of the plugin.
     */
    uint32_t minor;
    /**
     * Tells what was built.
     */
    LambdaDpoStatus (*build_info)(struct LambdaDpoBuildInfo *info, struct LambdaDpoError *error);
    /**
     * Frees bytes that the plugin gave, and sets them to NULL and 0.
     */
    void (*bytes_free)(struct LambdaDpoBytes *bytes);
    /**
     * Converts one record (JSON) to one sample (JSON). `record_index` is for messages and becomes the sample's.
     * A record that the options filter out gives NULL bytes.
     */
    LambdaDpoStatus (*convert_record)(struct LambdaDpoStr record,
                                      uint64_t record_index,
                                      const struct LambdaDpoConvertOptions *options,
                                      struct LambdaDpoBytes *sample,
                                      struct LambdaDpoError *error);
    /**
     * Opens record files (JSON array, JSON lines, Parquet) for streaming. Free with `reader_free`.
     */
    LambdaDpoStatus (*reader_open)(const struct LambdaDpoStr *paths,
                                   size_t num_paths,
                                   const struct LambdaDpoConvertOptions *options,
                                   LambdaDpoReader **reader,
                                   struct LambdaDpoError *error);
    /**
     * Opens an Arrow C stream of records: structs and lists as Parquet files hold them. Free with `reader_free`.
     *
     * The plugin takes the stream over, and releases it, even where the call fails, unless `stream` itself is refused
     * (NULL, or released already). Its callbacks are called during `reader_next` and by the stream of
     * `reader_to_arrow`. Where the options name no dimensions, the schema must: annotations are then a struct.
     */
    LambdaDpoStatus (*reader_open_arrow)(struct ArrowArrayStream *stream,
                                         const struct LambdaDpoConvertOptions *options,
                                         LambdaDpoReader **reader,
                                         struct LambdaDpoError *error);
    /**
     * Gives the samples that a reader has left as an Arrow C stream, in batches, read as they are asked for.
     *
     * Columns: `prompt` (list of {role, content}; a text is one user turn), `responses` and `dimensions` (lists of utf8),
     * `ratings` and `pi_target` (`[M][N]` lists of float64, null where missing and where masked), `record` (uint64).
     * `stream` is overwritten; the caller calls its `release`. It may outlive the reader; both draw on the same samples.
     * A failure inside it is an `errno` code, with the sentence from `get_last_error`; nothing follows it.
     */
    LambdaDpoStatus (*reader_to_arrow)(LambdaDpoReader *reader,
                                       struct ArrowArrayStream *stream,
                                       struct LambdaDpoError *error);
    /**
     * Gives the next sample as JSON; NULL bytes at the end.
     */
    LambdaDpoStatus (*reader_next)(LambdaDpoReader *reader,
                                   struct LambdaDpoBytes *sample,
                                   struct LambdaDpoError *error);
    /**
     * Gives the counts so far as JSON: records read, samples given, skipped by reason, missing ratings by kind.
     */
    LambdaDpoStatus (*reader_report)(const LambdaDpoReader *reader,
                                     struct LambdaDpoBytes *report,
                                     struct LambdaDpoError *error);
    /**
     * Frees a reader.
     */
    void (*reader_free)(LambdaDpoReader *reader);
    /**
     * Opens the tokenizer of a model folder (`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`).
     * `chat_template` is the path of a template that takes the place of the folder's own, or empty. Free with
     * `tokenizer_free`.
     */
    LambdaDpoStatus (*tokenizer_open)(struct LambdaDpoStr folder,
                                      struct LambdaDpoStr chat_template,
                                      LambdaDpoTokenizer **tokenizer,
                                      struct LambdaDpoError *error);
    /**
     * Gives JSON: `vocab_size`, `bos_token_id`, `eos_token_id`, `pad_token_id` (null where there is none),
     * `has_chat_template`.
     */
    LambdaDpoStatus (*tokenizer_info)(const LambdaDpoTokenizer *tokenizer,
                                      struct LambdaDpoBytes *info,
                                      struct LambdaDpoError *error);
    /**
     * Renders messages (a JSON list of `{role, content}`) with the chat template.
     */
    LambdaDpoStatus (*tokenizer_render)(const LambdaDpoTokenizer *tokenizer,
                                        struct LambdaDpoStr messages,
                                        uint32_t add_generation_prompt,
                                        struct LambdaDpoBytes *text,
                                        struct LambdaDpoError *error);
    /**
     * Encodes text as it stands (special tokens in it are recognised, none are added) to `[num_tokens]` int64.
     */
    LambdaDpoStatus (*tokenizer_encode)(const LambdaDpoTokenizer *tokenizer,
                                        struct LambdaDpoStr text,
                                        LambdaDpoTensor *ids,
                                        struct LambdaDpoError *error);
    /**
     * Decodes `[num_tokens]` int64 to text.
     */
    LambdaDpoStatus (*tokenizer_decode)(const LambdaDpoTokenizer *tokenizer,
                                        LambdaDpoTensor ids,
                                        uint32_t skip_special_tokens,
                                        struct LambdaDpoBytes *text,
                                        struct LambdaDpoError *error);
    /**
     * Frees a tokenizer; datasets made with it live on.
     */
    void (*tokenizer_free)(LambdaDpoTokenizer *tokenizer);
    /**
     * Tokenises one sample (JSON, as `convert_record` gives it); NULL where nothing is left of it. Free with
     * `tokenized_sample_free`.
     */
    LambdaDpoStatus (*tokenize)(const LambdaDpoTokenizer *tokenizer,
                                struct LambdaDpoStr sample,
                                const struct LambdaDpoTokenizeOptions *options,
                                LambdaDpoTokenizedSample **tokenized,
                                struct LambdaDpoError *error);
    /**
     * Takes a sample that another tokenizer made, as JSON: `record` (its index), `prompt_ids`, `response_ids` (lists of
     * token ids), `response_indices` (which response of the record each is) and `pi_target` (`[M][N]`, null where masked).
     * Free with `tokenized_sample_free`.
     */
    LambdaDpoStatus (*tokenized_sample_new)(struct LambdaDpoStr tokens,
                                            LambdaDpoTokenizedSample **tokenized,
                                            struct LambdaDpoError *error);
    /**
     * Gives a sample's tokens as such JSON, for a store of the caller's. A conversation is refused.
     */
    LambdaDpoStatus (*tokenized_sample_tokens)(const LambdaDpoTokenizedSample *sample,
                                               struct LambdaDpoBytes *tokens,
                                               struct LambdaDpoError *error);
    /**
     * Frees a tokenised sample.
     */
    void (*tokenized_sample_free)(LambdaDpoTokenizedSample *sample);
    /**
     * Collates samples; `lambda` is `[num_samples, M]` (NULL where M = 0). Free with `batch_free`.
     */
    LambdaDpoStatus (*collate)(const LambdaDpoTokenizedSample *const *samples,
                               size_t num_samples,
                               const double *lambda,
                               const struct LambdaDpoCollateOptions *options,
                               struct LambdaDpoBatch *batch,
                               struct LambdaDpoError *error);
    /**
     * Frees the tensors that are still in a batch, and sets them to NULL.
     */
    void (*batch_free)(struct LambdaDpoBatch *batch);
    /**
     * Reads, converts and tokenises record files, in parallel, or takes what an earlier opening left in
     * `options.cache_dir`. The samples stay on disk. Free with `dataset_free`.
     */
    LambdaDpoStatus (*dataset_open)(const struct LambdaDpoStr *paths,
                                    size_t num_paths,
                                    const LambdaDpoTokenizer *tokenizer,
                                    const struct LambdaDpoDatasetOptions *options,
                                    LambdaDpoDataset **dataset,
                                    struct LambdaDpoError *error);
    /**
     * As `dataset_open`, of an Arrow C stream of records, which is taken over as by `reader_open_arrow`; its callbacks are
     * called during this call alone. `options.cache_dir` must be empty: what a stream holds is known at its end only.
     */
    LambdaDpoStatus (*dataset_open_arrow)(struct ArrowArrayStream *stream,
                                          const LambdaDpoTokenizer *tokenizer,
                                          const struct LambdaDpoDatasetOptions *options,
                                          LambdaDpoDataset **dataset,
                                          struct LambdaDpoError *error);
    /**
     * Gives the number of samples, or 0 for NULL.
     */
    uint64_t (*dataset_len)(const LambdaDpoDataset *dataset);
    /**
     * Gives JSON: `dimensions` (names in order), `report` (as `reader_report`, with truncated and dropped ones), `hash` (of
     * all samples, targets included) and `cache`: null, or `path`, `was_read` (the tokens came from it) and `damage` (why a
     * file that stood there was made anew, or null).
     */
    LambdaDpoStatus (*dataset_info)(const LambdaDpoDataset *dataset,
                                    struct LambdaDpoBytes *info,
                                    struct LambdaDpoError *error);
    /**
     * Gives `[len, 5]` int64: each sample's record index, number of responses, number of tokens (prompt once), and the two
     * halves of a 128-bit hash of its tokens and their targets, ratings aside: all that log-probs are a function of besides
     * the model.
     */
    LambdaDpoStatus (*dataset_samples)(const LambdaDpoDataset *dataset,
                                       LambdaDpoTensor *samples,
                                       struct LambdaDpoError *error);
    /**
     * Collates the samples at `indices` (each below the length), or takes what `dataset_prefetch` has collated of the same
     * arguments; `lambda` is `[num_indices, M]`. Free with `batch_free`.
     */
    LambdaDpoStatus (*dataset_batch)(const LambdaDpoDataset *dataset,
                                     const uint64_t *indices,
                                     size_t num_indices,
                                     const double *lambda,
                                     const struct LambdaDpoCollateOptions *options,
                                     struct LambdaDpoBatch *batch,
                                     struct LambdaDpoError *error);
    /**
     * Asks for a batch to be collated ahead, on a thread of the dataset's, for a `dataset_batch` of the same arguments
     * soon; returns at once. Up to LAMBDA_DPO_PREFETCH_CAPACITY batches are held, of more the oldest are
     * given up. Nothing depends on it but time: what is wrong with a batch is told by `dataset_batch`.
     */
    LambdaDpoStatus (*dataset_prefetch)(const LambdaDpoDataset *dataset,
                                        const uint64_t *indices,
                                        size_t num_indices,
                                        const double *lambda,
                                        const struct LambdaDpoCollateOptions *options,
                                        struct LambdaDpoError *error);
    /**
     * Frees a dataset, after its thread has ended.
     */
    void (*dataset_free)(LambdaDpoDataset *dataset);
    /**
     * Makes a λ schedule. Free with `schedule_free`.
     */
    LambdaDpoStatus (*schedule_new)(const struct LambdaDpoScheduleOptions *options,
                                    LambdaDpoSchedule **schedule,
                                    struct LambdaDpoError *error);
    /**
     * Draws λ `[M]` for one prompt instance: a pure function of its arguments.
     */
    LambdaDpoStatus (*schedule_draw_instance)(const LambdaDpoSchedule *schedule,
                                              uint64_t seed,
                                              uint64_t epoch,
                                              uint64_t record_index,
                                              double *lambda,
                                              struct LambdaDpoError *error);
    /**
     * Draws λ `[M]` for one optimiser step: a pure function of its arguments.
     */
    LambdaDpoStatus (*schedule_draw_step)(const LambdaDpoSchedule *schedule,
                                          uint64_t seed,
                                          uint64_t global_step,
                                          double *lambda,
                                          struct LambdaDpoError *error);
    /**
     * Frees a schedule.
     */
    void (*schedule_free)(LambdaDpoSchedule *schedule);
    /**
     * Token log-probs `[K]` and sequence log-probs `[S]` without a loss; `options.reduction` holds, no gradient is kept.
     */
    LambdaDpoStatus (*log_probs)(const struct LambdaDpoLossInputs *inputs,
                                 const struct LambdaDpoLossOptions *options,
                                 LambdaDpoTensor *token_log_probs,
                                 LambdaDpoTensor *sequence_log_probs,
                                 struct LambdaDpoError *error);
    /**
     * The loss. `context` may be NULL where `options.wants` is 0; else free it with `loss_context_free`, after its
     * backward or instead of it.
     */
    LambdaDpoStatus (*loss_forward)(const struct LambdaDpoLossInputs *inputs,
                                    const struct LambdaDpoLossOptions *options,
                                    struct LambdaDpoLossOutputs *outputs,
                                    LambdaDpoLossContext **context,
                                    struct LambdaDpoError *error);
    /**
     * Gradients of `grad_output` · loss. `inputs` are those of the forward, unchanged, with its `cuda_stream`; a context
     * serves one backward.
     */
    LambdaDpoStatus (*loss_backward)(LambdaDpoLossContext *context,
                                     const struct LambdaDpoLossInputs *inputs,
                                     double grad_output,
                                     struct LambdaDpoLossGradients *gradients,
                                     struct LambdaDpoError *error);
    /**
     * Frees a context, used or not.
     */
    void (*loss_context_free)(LambdaDpoLossContext *context);
} LambdaDpoApi;

/**
 * The type of the one exported symbol.
 *
 * Writes the table that serves a caller compiled against (`major`, `minor`): equal majors, and a minor not above the
 * plugin's. The table is static and never freed.
 */
typedef LambdaDpoStatus (*LambdaDpoGetApi)(uint32_t major,
                                           uint32_t minor,
                                           const struct LambdaDpoApi **api,
                                           struct LambdaDpoError *error);

/**
 * Done; outputs are filled.
 */
#define LAMBDA_DPO_STATUS_OK 0

/**
 * An argument is NULL, out of range, of a wrong dtype or shape, or contradicts another.
 */
#define LAMBDA_DPO_STATUS_INVALID_ARGUMENT 1

/**
 * A file is missing, unreadable, or could not be written.
 */
#define LAMBDA_DPO_STATUS_IO 2

/**
 * A record, tokenizer or template does not parse or lacks a field.
 */
#define LAMBDA_DPO_STATUS_INVALID_DATA 3

/**
 * A request that this version does not support: a newer table, a dtype, a device.
 */
#define LAMBDA_DPO_STATUS_UNSUPPORTED 4

/**
 * libtorch refused: out of memory, a failing kernel.
 */
#define LAMBDA_DPO_STATUS_TORCH 5

/**
 * A defect in the plugin: it panicked. The handle of the call is poisoned.
 */
#define LAMBDA_DPO_STATUS_PANIC 6

/**
 * The handle was poisoned by an earlier LAMBDA_DPO_STATUS_PANIC, or a context was used a second time.
 */
#define LAMBDA_DPO_STATUS_POISONED 7

/**
 * The progress callback asked to stop.
 */
#define LAMBDA_DPO_STATUS_CANCELLED 8

/**
 * Name of the one exported symbol, for dlsym.
 */
#define LAMBDA_DPO_ENTRY_POINT "lambda_dpo_get_api"

/**
 * The library's one exported symbol; see LambdaDpoGetApi.
 */
LambdaDpoStatus lambda_dpo_get_api(uint32_t major,
                                   uint32_t minor,
                                   const LambdaDpoApi **api,
                                   LambdaDpoError *error);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* LAMBDA_DPO_H */
