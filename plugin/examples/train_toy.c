/*
 * Trains a toy policy with lambda-DPO, using only the function table: convert, tokenise, draw lambda, collate, then
 * gradient steps. The policy is a bigram model: the hidden state of a token is its row of `embedding`.
 *
 *     cc -std=c11 -I plugin/include plugin/examples/train_toy.c -o train_toy -ldl
 *     ./train_toy target/debug/liblambda_dpo.so fixtures/words
 */
#include <dlfcn.h>
#include <lambda_dpo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECORDS = 2, DIMENSIONS = 2, HIDDEN = 8, STEPS = 40 };

#define RATED(text, helpfulness, honesty)                                  \
    "{\"response\": \"" text "\", \"annotations\": {"                         \
    "\"helpfulness\": {\"Rating\": \"" helpfulness "\"}, \"honesty\": {\"Rating\": \"" honesty "\"}}}"

/* One rating is missing: its response is left out of that dimension. */
static const char *const records[RECORDS] = {
    "{\"instruction\": \"what colour is the sky\", \"completions\": [" RATED("blue", "5", "4") ","
    RATED("it is red", "2", "1") "," RATED("grey , mostly", "3", "N/A") "]}",
    "{\"instruction\": \"name a fruit\", \"completions\": [" RATED("plum", "4", "5") ","
    RATED("three", "1", "3") "]}",
};

/* The caller owns the error and the buffer of its message. */
static char message[1024];
static LambdaDpoError error = {sizeof error, (uint8_t *)message, sizeof message - 1, 0};

static void check(LambdaDpoStatus status, const char *call) {
    if (status == LAMBDA_DPO_STATUS_OK) return;
    size_t len = error.len < error.capacity ? error.len : error.capacity;
    fprintf(stderr, "%s failed with status %d: %.*s\n", call, (int)status, (int)len, message);
    exit(1);
}
#define CHECK(call, arguments) check(api->call arguments, #call)

static LambdaDpoStr str(const char *text) {
    LambdaDpoStr result = {(const uint8_t *)text, strlen(text)};
    return result;
}

/* Lends a row-major [rows, HIDDEN] float32 matrix: an input tensor needs no deleter. */
static DLManagedTensorVersioned lend(float *data, int64_t shape[2]) {
    DLManagedTensorVersioned tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.version.major = 1;
    tensor.dl_tensor.data = data;
    tensor.dl_tensor.device.device_type = LAMBDA_DPO_DL_CPU;
    tensor.dl_tensor.ndim = 2;
    tensor.dl_tensor.dtype.code = LAMBDA_DPO_DL_FLOAT;
    tensor.dl_tensor.dtype.bits = 32;
    tensor.dl_tensor.dtype.lanes = 1;
    tensor.dl_tensor.shape = shape;
    return tensor;
}

/* Output tensors are compact, and on the CPU because the inputs were. */
static const void *data(LambdaDpoTensor tensor) {
    return (const char *)tensor->dl_tensor.data + tensor->dl_tensor.byte_offset;
}

/* The deleter of an output tensor frees it. */
static void free_tensor(LambdaDpoTensor tensor) {
    if (tensor != NULL && tensor->deleter != NULL) tensor->deleter(tensor);
}

static void free_outputs(LambdaDpoLossOutputs *out) {
    LambdaDpoTensor all[] = {out->loss,          out->token_log_probs,  out->sequence_log_probs, out->rewards,
                             out->prompt_losses, out->dimension_losses, out->dimension_mask,     out->accuracies,
                             out->margins,       out->dimension_accuracies};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free_tensor(all[i]);
}

/* Turns the records into one batch, one call for each stage, and frees intermediate results. */
static LambdaDpoBatch make_batch(const LambdaDpoApi *api, const LambdaDpoTokenizer *tokenizer) {
    LambdaDpoStr names[DIMENSIONS] = {str("helpfulness"), str("honesty")};
    LambdaDpoConvertOptions convert = {.struct_size = sizeof convert, .format = LAMBDA_DPO_FORMAT_ULTRAFEEDBACK};
    convert.dimensions = names;
    convert.num_dimensions = DIMENSIONS;
    convert.missing_rating = strtod("nan", NULL); /* masked */
    convert.temperature = 1.0;
    LambdaDpoTokenizeOptions tokenize = {.struct_size = sizeof tokenize, .cutoff_len = 64};
    LambdaDpoScheduleOptions options = {.struct_size = sizeof options, .kind = LAMBDA_DPO_SCHEDULE_DIRICHLET};
    options.num_dimensions = DIMENSIONS;
    options.alpha = 1.0;
    LambdaDpoSchedule *schedule = NULL;
    CHECK(schedule_new, (&options, &schedule, &error));

    LambdaDpoTokenizedSample *samples[RECORDS];
    double lambda[RECORDS][DIMENSIONS];
    for (int i = 0; i < RECORDS; i++) {
        LambdaDpoBytes json = {NULL, 0, 0};
        CHECK(convert_record, (str(records[i]), (uint64_t)i, &convert, &json, &error));
        LambdaDpoStr sample = {json.data, json.len};
        CHECK(tokenize, (tokenizer, sample, &tokenize, &samples[i], &error));
        api->bytes_free(&json);
        CHECK(schedule_draw_instance, (schedule, 42, 0, (uint64_t)i, lambda[i], &error));
    }
    LambdaDpoCollateOptions collate = {.struct_size = sizeof collate, .layout = LAMBDA_DPO_LAYOUT_PACKED};
    LambdaDpoBatch batch = {.struct_size = sizeof batch};
    const LambdaDpoTokenizedSample *const *borrowed = (const LambdaDpoTokenizedSample *const *)samples;
    CHECK(collate, (borrowed, RECORDS, lambda[0], &collate, &batch, &error));
    for (int i = 0; i < RECORDS; i++) api->tokenized_sample_free(samples[i]);
    api->schedule_free(schedule);
    return batch;
}

/* Takes one step of gradient descent and returns the loss before it. */
static double step(const LambdaDpoApi *api, const LambdaDpoBatch *batch, float *embedding, float *head,
                   int64_t vocab) {
    const int64_t *ids = data(batch->input_ids);
    int64_t tokens = batch->input_ids->dl_tensor.shape[0] * batch->input_ids->dl_tensor.shape[1];
    float *hidden = malloc((size_t)tokens * HIDDEN * sizeof *hidden);
    if (hidden == NULL) exit(1);
    for (int64_t i = 0; i < tokens * HIDDEN; i++) hidden[i] = embedding[ids[i / HIDDEN] * HIDDEN + i % HIDDEN];

    int64_t hidden_shape[2] = {tokens, HIDDEN}, head_shape[2] = {vocab, HIDDEN};
    DLManagedTensorVersioned lent_hidden = lend(hidden, hidden_shape), lent_head = lend(head, head_shape);
    /* The tensors of the batch are passed back unchanged. Without a reference, s^ref is 0. */
    LambdaDpoLossInputs inputs = {.struct_size = sizeof inputs, .hidden = &lent_hidden, .lm_head = &lent_head};
    inputs.target_positions = batch->target_positions;
    inputs.target_ids = batch->target_ids;
    inputs.target_sequences = batch->target_sequences;
    inputs.num_sequences = (uint64_t)batch->sequence_num_tokens->dl_tensor.shape[0];
    inputs.prompt_offsets = batch->prompt_offsets;
    inputs.sequence_index = batch->sequence_index;
    inputs.pi_target = batch->pi_target;
    inputs.target_mask = batch->target_mask;
    inputs.lambda = batch->lambda;
    LambdaDpoLossOptions options = {.struct_size = sizeof options, .objective = LAMBDA_DPO_OBJECTIVE_LISTWISE};
    options.reduction = LAMBDA_DPO_REDUCTION_SUM;
    options.beta = 0.5;
    options.wants = LAMBDA_DPO_WANTS_HIDDEN | LAMBDA_DPO_WANTS_LM_HEAD;

    LambdaDpoLossOutputs outputs = {.struct_size = sizeof outputs};
    LambdaDpoLossContext *context = NULL;
    CHECK(loss_forward, (&inputs, &options, &outputs, &context, &error));
    double loss = *(const double *)data(outputs.loss);
    LambdaDpoLossGradients gradients = {.struct_size = sizeof gradients};
    CHECK(loss_backward, (context, &inputs, 1.0, &gradients, &error));

    const float *grad_hidden = data(gradients.hidden), *grad_head = data(gradients.lm_head);
    const float learning_rate = 0.5F;
    for (int64_t i = 0; i < tokens * HIDDEN; i++)
        embedding[ids[i / HIDDEN] * HIDDEN + i % HIDDEN] -= learning_rate * grad_hidden[i];
    for (int64_t i = 0; i < vocab * HIDDEN; i++) head[i] -= learning_rate * grad_head[i];
    free_tensor(gradients.hidden);
    free_tensor(gradients.lm_head);
    free_outputs(&outputs);
    api->loss_context_free(context);
    free(hidden);
    return loss;
}

/* Returns a number in [-0.5, 0.5), the same on every machine. */
static float uniform(uint32_t *state) {
    *state = *state * 1664525U + 1013904223U;
    return (float)(*state >> 8) / (float)(1 << 24) - 0.5F;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s LIBRARY TOKENIZER_FOLDER\n", argv[0]);
        return 2;
    }
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    LambdaDpoGetApi get_api;
    *(void **)&get_api = dlsym(library, LAMBDA_DPO_ENTRY_POINT);
    if (get_api == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    const LambdaDpoApi *api = NULL;
    check(get_api(LAMBDA_DPO_ABI_MAJOR, LAMBDA_DPO_ABI_MINOR, &api, &error), LAMBDA_DPO_ENTRY_POINT);

    LambdaDpoTokenizer *tokenizer = NULL;
    CHECK(tokenizer_open, (str(argv[2]), str(""), &tokenizer, &error));
    LambdaDpoBatch batch = make_batch(api, tokenizer);
    api->tokenizer_free(tokenizer);

    enum { VOCAB = 31 }; /* of fixtures/words; `tokenizer_info` returns it as JSON */
    static float embedding[VOCAB * HIDDEN], head[VOCAB * HIDDEN];
    uint32_t state = 1;
    for (int i = 0; i < VOCAB * HIDDEN; i++) {
        embedding[i] = uniform(&state);
        head[i] = uniform(&state);
    }
    double first = 0.0, last = 0.0;
    for (int i = 0; i < STEPS; i++) {
        last = step(api, &batch, embedding, head, VOCAB);
        if (i == 0) first = last;
        if (i % 10 == 0 || i == STEPS - 1) printf("step %2d  loss %.4f\n", i, last);
    }
    api->batch_free(&batch);
    return last < first ? 0 : 1; /* the library stays loaded: it is never unloaded */
}
