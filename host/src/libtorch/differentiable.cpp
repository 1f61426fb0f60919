// Operations whose backward pass is written in Rust. differentiable.rs is the Rust side.
#include "guarded.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What an operation has saved for its backward pass.
struct Saved : torch::CustomClassHolder {
  // Writes a new tensor for each input, or NULL where it takes no gradient; or returns a message for the caller to free().
  using Run = char *(*)(const void *saved, const at::Tensor *grad, at::Tensor **grads, size_t num_inputs);
  using Release = void (*)(void *saved);

  Saved(void *saved, Run run, Release release) : saved(saved), run(run), release(release) {}
  ~Saved() override { release(saved); }

  variable_list gradients(const at::Tensor &grad, size_t num_inputs) const {
    std::vector<at::Tensor *> found(num_inputs, nullptr);
    char *message = run(saved, &grad, found.data(), num_inputs);
    variable_list grads(num_inputs);
    for (size_t i = 0; i < num_inputs; ++i) {
      if (found[i] != nullptr) grads[i] = std::move(*std::unique_ptr<at::Tensor>(found[i]));
    }
    if (message != nullptr) {
      const std::string text = message;
      std::free(message);
      throw std::runtime_error(text);
    }
    return grads;
  }

  void *saved;
  Run run;
  Release release;
};

struct Differentiable : torch::autograd::Function<Differentiable> {
  // `output` is a pointer, so that autograd does not take it for another input.
  static at::Tensor forward(AutogradContext *context, at::TensorList inputs, const at::Tensor *output,
                            const c10::intrusive_ptr<Saved> &saved) {
    context->saved_data["saved"] = c10::IValue::make_capsule(saved);
    context->saved_data["num_inputs"] = static_cast<int64_t>(inputs.size());
    return *output;
  }

  static variable_list backward(AutogradContext *context, const variable_list &grads) {
    const auto saved = c10::static_intrusive_pointer_cast<Saved>(context->saved_data["saved"].toCapsule());
    const auto num_inputs = static_cast<size_t>(context->saved_data["num_inputs"].toInt());
    variable_list found = saved->gradients(grads[0], num_inputs);
    found.resize(num_inputs + 2); // None for the output and for what is saved.
    return found;
  }
};

} // namespace

extern "C" {

// Tells autograd that `output` follows from the inputs. Takes what is saved, whatever it returns.
char *ldpo_differentiable(const at::Tensor *const *inputs, size_t num_inputs, const at::Tensor *output, void *saved,
                          Saved::Run run, Saved::Release release, at::Tensor **recorded) {
  return guarded([&] {
    const auto held = c10::make_intrusive<Saved>(saved, run, release);
    std::vector<at::Tensor> all;
    for (size_t i = 0; i < num_inputs; ++i) all.push_back(*inputs[i]);
    *recorded = new at::Tensor(Differentiable::apply(at::TensorList(all), output, held));
  });
}
}
