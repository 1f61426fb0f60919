// A linear layer whose weight autograd does not keep: it is made anew in the backward pass. remade.rs is the Rust side.
#include "guarded.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

namespace {

// What a weight is made of; `make` writes a new tensor, or returns a message for the caller to free().
struct Recipe : torch::CustomClassHolder {
  using Make = char *(*)(const void *ingredients, at::Tensor **weight);
  using Release = void (*)(void *ingredients);

  Recipe(void *ingredients, Make make, Release release) : ingredients(ingredients), make(make), release(release) {}
  ~Recipe() override { release(ingredients); }

  at::Tensor weight() const {
    at::Tensor *made = nullptr;
    if (char *message = make(ingredients, &made)) {
      const std::string text = message;
      std::free(message);
      throw std::runtime_error(text);
    }
    return std::move(*std::unique_ptr<at::Tensor>(made));
  }

  void *ingredients;
  Make make;
  Release release;
};

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RemadeLinear : torch::autograd::Function<RemadeLinear> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &input, const c10::intrusive_ptr<Recipe> &recipe,
                            const std::optional<at::Tensor> &bias) {
    context->saved_data["recipe"] = c10::IValue::make_capsule(recipe);
    return at::linear(input, recipe->weight(), bias);
  }

  static variable_list backward(AutogradContext *context, const variable_list &grads) {
    const auto recipe = c10::static_intrusive_pointer_cast<Recipe>(context->saved_data["recipe"].toCapsule());
    return {at::matmul(grads[0], recipe->weight()), at::Tensor(), at::Tensor()};
  }
};

} // namespace

extern "C" {

// W x + b of a weight [out, in] and a bias that take no gradient; NULL is no bias. Takes the ingredients, whatever it returns.
char *ldpo_remade_linear(const at::Tensor *input, const at::Tensor *bias, void *ingredients, Recipe::Make make,
                         Recipe::Release release, at::Tensor **output) {
  return guarded([&] {
    const auto recipe = c10::make_intrusive<Recipe>(ingredients, make, release);
    const auto optional_bias = bias == nullptr ? std::nullopt : std::optional<at::Tensor>(*bias);
    *output = new at::Tensor(RemadeLinear::apply(*input, recipe, optional_bias));
  });
}
}
