#include "convert.h"

#include <ATen/core/List.h>
#include <c10/core/Device.h>
#include <c10/core/MemoryFormat.h>

#include <cmath>

#include "handles.h"

namespace ivtlr {
namespace {

napi_ref id_key = nullptr;  // the interned property names of Tensor and Generator
napi_ref generator_key = nullptr;

napi_ref make_key(napi_env env, const char* name) {
  napi_value key, holder;
  NAPI_OK(napi_create_string_latin1(env, name, NAPI_AUTO_LENGTH, &key));
  // Strings cannot be referenced directly before Node-API 10: keep it inside an object.
  NAPI_OK(napi_create_object(env, &holder));
  NAPI_OK(napi_set_element(env, holder, 0, key));
  napi_ref ref;
  NAPI_OK(napi_create_reference(env, holder, 1, &ref));
  return ref;
}

napi_value key_of(napi_env env, napi_ref ref) {
  napi_value holder, key;
  NAPI_OK(napi_get_reference_value(env, ref, &holder));
  NAPI_OK(napi_get_element(env, holder, 0, &key));
  return key;
}

const char* kind_name(napi_env env, napi_value value) {
  bool is_array = false;
  napi_is_array(env, value, &is_array);
  if (is_array) return "an array";
  switch (type_of(env, value)) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_boolean: return "a boolean";
    case napi_number: return "a number";
    case napi_string: return "a string";
    case napi_function: return "a function";
    case napi_bigint: return "a bigint";
    default: return "an object";
  }
}

bool is_nullish(napi_env env, napi_value value) {
  const napi_valuetype type = type_of(env, value);
  return type == napi_null || type == napi_undefined;
}

[[noreturn]] void expected(napi_env env, const char* what, napi_value value) {
  throw std::runtime_error(std::string("expected ") + what + ", got " + kind_name(env, value));
}

int32_t handle(napi_env env, napi_value value, napi_value key, const char* what) {
  napi_value id;
  int32_t number;
  // Reading the property fails for null and undefined, converting it to a number for every other value that is no handle.
  if (napi_get_property(env, value, key, &id) != napi_ok) {
    // Null and undefined get the message below; any other exception was thrown by a getter and is passed on.
    napi_value refused;
    if (is_nullish(env, value)) napi_get_and_clear_last_exception(env, &refused);
    else throw Pending();
    expected(env, what, value);
  }
  if (napi_get_value_int32(env, id, &number) != napi_ok) expected(env, what, value);
  return number;
}

double to_double(napi_env env, napi_value value) {
  double result;
  if (napi_get_value_double(env, value, &result) != napi_ok) expected(env, "a number", value);
  return result;
}

c10::IValue to_scalar(napi_env env, napi_value value) {
  switch (type_of(env, value)) {
    case napi_boolean: return c10::IValue(to_bool(env, value));
    case napi_bigint: return c10::IValue(to_int(env, value));
    case napi_number: {
      const double number = to_double(env, value);
      // JavaScript has one number type: whole numbers become integers, as they are written in Python.
      if (std::trunc(number) == number && std::fabs(number) <= 9007199254740991.0 && !(number == 0 && std::signbit(number)))
        return c10::IValue(static_cast<int64_t>(number));
      return c10::IValue(number);
    }
    default: expected(env, "a number", value);
  }
}

c10::ScalarType dtype_from_number(int64_t number) {
  if (number < 0 || number >= static_cast<int64_t>(c10::ScalarType::Undefined))
    throw std::runtime_error("unknown dtype number " + std::to_string(number));
  return static_cast<c10::ScalarType>(number);
}

c10::MemoryFormat memory_format(const std::string& name) {
  if (name == "contiguous_format") return c10::MemoryFormat::Contiguous;
  if (name == "preserve_format") return c10::MemoryFormat::Preserve;
  if (name == "channels_last") return c10::MemoryFormat::ChannelsLast;
  if (name == "channels_last_3d") return c10::MemoryFormat::ChannelsLast3d;
  throw std::runtime_error("unknown memory format \"" + name + "\"");
}

c10::Layout layout(const std::string& name) {
  if (name == "strided") return c10::Layout::Strided;
  if (name == "sparse_coo") return c10::Layout::Sparse;
  throw std::runtime_error("unknown layout \"" + name + "\"");
}

// A dtype, layout or memory format travels as an integer; libtorch reads past the end of its tables for a number that names none.
int64_t to_enum(napi_env env, napi_value value, const c10::Type& real) {
  const auto kind = real.kind();
  if (type_of(env, value) == napi_string) {
    const std::string name = to_string(env, value);
    switch (kind) {
      case c10::TypeKind::ScalarTypeType: return static_cast<int64_t>(dtype_from_name(name));
      case c10::TypeKind::LayoutType: return static_cast<int64_t>(layout(name));
      case c10::TypeKind::MemoryFormatType: return static_cast<int64_t>(memory_format(name));
      default: throw std::runtime_error("expected an integer, got the string \"" + name + "\"");
    }
  }
  const int64_t number = to_int(env, value);
  switch (kind) {
    case c10::TypeKind::ScalarTypeType: return static_cast<int64_t>(dtype_from_number(number));
    case c10::TypeKind::LayoutType:
      if (number < 0 || number >= static_cast<int64_t>(c10::Layout::NumOptions))
        throw std::runtime_error("unknown layout number " + std::to_string(number));
      return number;
    case c10::TypeKind::MemoryFormatType:
      if (number < 0 || number >= static_cast<int64_t>(c10::MemoryFormat::NumOptions))
        throw std::runtime_error("unknown memory format number " + std::to_string(number));
      return number;
    default: return number;
  }
}

c10::IValue convert(napi_env env, napi_value value, const c10::Type& type, const c10::Type& real, std::optional<int32_t> fixed);

c10::IValue convert_list(napi_env env, napi_value value, const c10::Type& type, std::optional<int32_t> fixed) {
  const auto& item = type.castRaw<c10::ListType>()->getElementType();
  bool is_array = false;
  napi_is_array(env, value, &is_array);
  const auto kind = item->kind();
  if (!is_array) {
    // As in Python, int[2] also takes one integer for all places.
    if (fixed && (kind == c10::TypeKind::IntType || kind == c10::TypeKind::SymIntType) && type_of(env, value) == napi_number)
      return c10::IValue(std::vector<int64_t>(std::max(*fixed, 1), to_int(env, value)));
    expected(env, "an array", value);
  }
  const uint32_t length = array_length(env, value);
  switch (kind) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: {
      c10::List<int64_t> list;
      list.reserve(length);
      for (uint32_t i = 0; i < length; i++) list.push_back(to_int(env, element(env, value, i)));
      return c10::IValue(std::move(list));
    }
    case c10::TypeKind::TensorType: {
      c10::List<at::Tensor> list;
      list.reserve(length);
      for (uint32_t i = 0; i < length; i++) list.push_back(to_tensor(env, element(env, value, i)));
      return c10::IValue(std::move(list));
    }
    case c10::TypeKind::FloatType: {
      c10::List<double> list;
      list.reserve(length);
      for (uint32_t i = 0; i < length; i++) list.push_back(to_double(env, element(env, value, i)));
      return c10::IValue(std::move(list));
    }
    case c10::TypeKind::BoolType: {
      c10::List<bool> list;
      list.reserve(length);
      for (uint32_t i = 0; i < length; i++) list.push_back(to_bool(env, element(env, value, i)));
      return c10::IValue(std::move(list));
    }
    default: {
      c10::impl::GenericList list(item);
      list.reserve(length);
      for (uint32_t i = 0; i < length; i++) list.push_back(convert(env, element(env, value, i), *item, *item, std::nullopt));
      return c10::IValue(std::move(list));
    }
  }
}

c10::IValue convert(napi_env env, napi_value value, const c10::Type& type, const c10::Type& real, std::optional<int32_t> fixed) {
  switch (type.kind()) {
    case c10::TypeKind::TensorType: return c10::IValue(to_tensor(env, value));
    case c10::TypeKind::OptionalType: {
      if (is_nullish(env, value)) return c10::IValue();
      const auto& inner = type.castRaw<c10::OptionalType>()->getElementType();
      const auto* real_optional = real.castRaw<c10::OptionalType>();
      return convert(env, value, *inner, real_optional ? *real_optional->getElementType() : *inner, fixed);
    }
    case c10::TypeKind::NumberType: return to_scalar(env, value);
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return c10::IValue(to_enum(env, value, real));
    case c10::TypeKind::FloatType: return c10::IValue(to_double(env, value));
    case c10::TypeKind::BoolType: return c10::IValue(to_bool(env, value));
    case c10::TypeKind::AnyType:  // a process group, by name
    case c10::TypeKind::StringType: return c10::IValue(to_string(env, value));
    case c10::TypeKind::DeviceObjType: return c10::IValue(c10::Device(to_string(env, value)));
    case c10::TypeKind::GeneratorType:
      return c10::IValue(get_generator(handle(env, value, key_of(env, generator_key), "a Generator")));
    case c10::TypeKind::ListType: return convert_list(env, value, type, fixed);
    default: throw std::runtime_error("arguments of type " + type.str() + " are not supported");
  }
}

}  // namespace

void init_convert(napi_env env) {
  id_key = make_key(env, "id");
  generator_key = make_key(env, "generatorId");
}

napi_value undefined(napi_env env) {
  napi_value result;
  NAPI_OK(napi_get_undefined(env, &result));
  return result;
}

napi_value null(napi_env env) {
  napi_value result;
  NAPI_OK(napi_get_null(env, &result));
  return result;
}

napi_value number(napi_env env, double value) {
  napi_value result;
  NAPI_OK(napi_create_double(env, value, &result));
  return result;
}

napi_value string(napi_env env, const std::string& value) {
  napi_value result;
  NAPI_OK(napi_create_string_utf8(env, value.data(), value.size(), &result));
  return result;
}

std::string to_string(napi_env env, napi_value value) {
  size_t length;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) expected(env, "a string", value);
  std::string result(length, '\0');
  NAPI_OK(napi_get_value_string_utf8(env, value, result.data(), length + 1, &length));
  return result;
}

int64_t to_int(napi_env env, napi_value value) {
  const napi_valuetype type = type_of(env, value);
  if (type == napi_bigint) {
    int64_t result;
    bool lossless;
    NAPI_OK(napi_get_value_bigint_int64(env, value, &result, &lossless));
    if (!lossless) throw std::runtime_error("expected an integer of 64 bits, got a larger bigint");
    return result;
  }
  if (type != napi_number) expected(env, "an integer", value);
  const double number = to_double(env, value);
  if (!std::isfinite(number) || std::trunc(number) != number) throw std::runtime_error("expected an integer, got " + std::to_string(number));
  int64_t result;
  NAPI_OK(napi_get_value_int64(env, value, &result));
  return result;
}

bool to_bool(napi_env env, napi_value value) {
  bool result;
  if (napi_get_value_bool(env, value, &result) != napi_ok) expected(env, "a boolean", value);
  return result;
}

napi_valuetype type_of(napi_env env, napi_value value) {
  napi_valuetype type;
  NAPI_OK(napi_typeof(env, value, &type));
  return type;
}

uint32_t array_length(napi_env env, napi_value value) {
  uint32_t length;
  if (napi_get_array_length(env, value, &length) != napi_ok) expected(env, "an array", value);
  return length;
}

napi_value element(napi_env env, napi_value array, uint32_t index) {
  napi_value result;
  NAPI_OK(napi_get_element(env, array, index, &result));
  return result;
}

const at::Tensor& to_tensor(napi_env env, napi_value value) { return get(handle(env, value, key_of(env, id_key), "a Tensor")); }

c10::ScalarType dtype_from_name(const std::string& name) {
  for (int i = 0; i < static_cast<int>(c10::ScalarType::NumOptions); i++) {
    const auto dtype = static_cast<c10::ScalarType>(i);
    const char* candidate = dtype_name(dtype);
    if (candidate && name == candidate) return dtype;
  }
  throw std::runtime_error("unknown dtype \"" + name + "\"");
}

const char* dtype_name(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Float: return "float32";
    case c10::ScalarType::Double: return "float64";
    case c10::ScalarType::Half: return "float16";
    case c10::ScalarType::BFloat16: return "bfloat16";
    case c10::ScalarType::Long: return "int64";
    case c10::ScalarType::Int: return "int32";
    case c10::ScalarType::Short: return "int16";
    case c10::ScalarType::Char: return "int8";
    case c10::ScalarType::Byte: return "uint8";
    case c10::ScalarType::Bool: return "bool";
    default: return nullptr;
  }
}

c10::IValue to_ivalue(napi_env env, napi_value value, const c10::Argument& argument) {
  return convert(env, value, *argument.type(), *argument.real_type(), argument.N());
}

napi_value from_ivalue(napi_env env, const c10::IValue& value) {
  if (value.isTensor()) return number(env, put(value.toTensor()));
  if (value.isNone()) return null(env);
  if (value.isInt()) return number(env, static_cast<double>(value.toInt()));
  if (value.isDouble()) return number(env, value.toDouble());
  if (value.isBool()) {
    napi_value result;
    NAPI_OK(napi_get_boolean(env, value.toBool(), &result));
    return result;
  }
  if (value.isString()) return string(env, value.toStringRef());
  if (value.isDevice()) return string(env, value.toDevice().str());
  if (value.isSymInt()) return number(env, static_cast<double>(value.toSymInt().guard_int(__FILE__, __LINE__)));
  if (value.isList()) {
    const auto list = value.toListRef();
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, list.size(), &result));
    for (uint32_t i = 0; i < list.size(); i++) NAPI_OK(napi_set_element(env, result, i, from_ivalue(env, list[i])));
    return result;
  }
  if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, elements.size(), &result));
    for (uint32_t i = 0; i < elements.size(); i++) NAPI_OK(napi_set_element(env, result, i, from_ivalue(env, elements[i])));
    return result;
  }
  throw std::runtime_error("a result of type " + value.tagKind() + " has no JavaScript form");
}

}  // namespace ivtlr
