// JavaScript values to and from IValues, driven by an operator's schema.
#pragma once
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <node_api.h>

#include <stdexcept>
#include <string>

namespace ivtlr {

// A JavaScript exception is already pending; unwind without adding another.
struct Pending {};

#define NAPI_OK(expression) \
  do {                      \
    if ((expression) != napi_ok) throw std::runtime_error("Node-API call failed: " #expression); \
  } while (0)

napi_value undefined(napi_env env);
napi_value null(napi_env env);
napi_value number(napi_env env, double value);
napi_value string(napi_env env, const std::string& value);
std::string to_string(napi_env env, napi_value value);
int64_t to_int(napi_env env, napi_value value);
bool to_bool(napi_env env, napi_value value);
napi_valuetype type_of(napi_env env, napi_value value);
uint32_t array_length(napi_env env, napi_value value);
napi_value element(napi_env env, napi_value array, uint32_t index);

// The tensor behind a JavaScript Tensor; throws when `value` is something else or was disposed.
const at::Tensor& to_tensor(napi_env env, napi_value value);

c10::ScalarType dtype_from_name(const std::string& name);
const char* dtype_name(c10::ScalarType dtype);  // nullptr for dtypes without a name here

c10::IValue to_ivalue(napi_env env, napi_value value, const c10::Argument& argument);
// Tensors come out as handle numbers; the TypeScript side wraps them.
napi_value from_ivalue(napi_env env, const c10::IValue& value);

void init_convert(napi_env env);

}  // namespace ivtlr
