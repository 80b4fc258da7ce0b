#include "dispatch.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>

#include "addon.h"
#include "convert.h"
#include "handles.h"

namespace ivtlr {
namespace {

constexpr size_t max_arguments = 64;

struct Op {
  c10::OperatorHandle handle;
  std::string name;
  // For each result: the argument it is (in-place and out variants), or -1 for a fresh value.
  std::vector<int> aliases;
  // Places of a batch norm's arguments, -1 for none: without the statistics it needs, libtorch reads a null pointer.
  int training = -1;
  std::vector<int> running;  // needed when it is not training
  std::vector<int> saved;    // needed by a backward of training
};

std::vector<Op>& ops = *new std::vector<Op>();

std::string full_name(const c10::OperatorName& name) {
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

std::string about(const c10::Argument& parameter) {
  return "argument '" + parameter.name() + "' (" + parameter.type()->str() + "): ";
}

int written_argument(const c10::FunctionSchema& schema, const c10::Argument& result) {
  const auto* info = result.alias_info();
  if (!info || !info->isWrite() || result.type()->kind() != c10::TypeKind::TensorType) return -1;
  const auto& arguments = schema.arguments();
  for (size_t i = 0; i < arguments.size(); i++) {
    const auto* other = arguments[i].alias_info();
    if (other && other->isWrite() && arguments[i].type()->kind() == c10::TypeKind::TensorType &&
        other->beforeSets() == info->beforeSets())
      return static_cast<int>(i);
  }
  return -1;
}

std::vector<int> places_of(const c10::FunctionSchema& schema, std::initializer_list<std::string_view> names) {
  std::vector<int> places;
  const auto& arguments = schema.arguments();
  for (size_t i = 0; i < arguments.size(); i++)
    if (std::find(names.begin(), names.end(), arguments[i].name()) != names.end()) places.push_back(static_cast<int>(i));
  return places;
}

void find_statistics(Op& op, const c10::FunctionSchema& schema) {
  if (!schema.name().starts_with("aten::") || op.name.find("batch_norm") == std::string::npos) return;
  const auto flag = places_of(schema, {"training", "train", "update"});
  if (!flag.empty()) op.training = flag[0];
  // Of the ops without such a flag only those named `_no_update` read the running statistics.
  else if (op.name.find("_no_update") == std::string::npos) return;
  op.running = places_of(schema, {"running_mean", "running_var"});
  op.saved = places_of(schema, {"save_mean", "save_invstd", "save_var", "save_var_transform"});
}

void check_statistics(const Op& op, const torch::jit::Stack& stack) {
  if (op.training < 0 && op.running.empty()) return;
  const bool training = op.training >= 0 && stack[op.training].toBool();
  if (!training && op.running.empty()) throw std::runtime_error("has no statistics, so it must be training");
  for (const int place : training ? op.saved : op.running)
    if (stack[place].isNone())
      throw std::runtime_error("argument '" + op.handle.schema().arguments()[place].name() + "' is needed when it is " +
                               (training ? "training" : "not training"));
}

}  // namespace

// findOp(name, overload) -> [index, schema text, result kinds], kinds being "T" tensor, "L" tensor list, "V" plain value.
napi_value find_op(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    const c10::OperatorName name(to_string(env, args[0]), to_string(env, args[1]));
    const auto handle = c10::Dispatcher::singleton().findOp(name);
    if (!handle || !handle->hasSchema()) throw std::runtime_error("unknown op " + full_name(name));
    Op op{*handle, full_name(name)};
    const auto& schema = handle->schema();
    if (schema.arguments().size() > max_arguments) throw std::runtime_error(op.name + " has too many arguments");
    std::string kinds;
    for (const auto& result : schema.returns()) {
      op.aliases.push_back(written_argument(schema, result));
      const auto& type = *result.type();
      const bool list = type.kind() == c10::TypeKind::ListType &&
                        type.castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::TensorType;
      kinds += type.kind() == c10::TypeKind::TensorType ? 'T' : list ? 'L' : 'V';
    }
    find_statistics(op, schema);
    std::ostringstream text;
    text << schema;
    ops.push_back(std::move(op));
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, 3, &result));
    NAPI_OK(napi_set_element(env, result, 0, number(env, static_cast<double>(ops.size() - 1))));
    NAPI_OK(napi_set_element(env, result, 1, string(env, text.str())));
    NAPI_OK(napi_set_element(env, result, 2, string(env, kinds)));
    return result;
  });
}

// callOp(index, ...arguments): one result as itself, several as an array, none as undefined. A result that is one of the
// arguments comes back as -(argument index + 1).
napi_value call_op(napi_env env, napi_callback_info info) {
  const Op* op = nullptr;
  return guarded(env, [&]() -> napi_value {
    napi_value args[max_arguments + 1];
    size_t count = max_arguments + 1;
    NAPI_OK(napi_get_cb_info(env, info, &count, args, nullptr, nullptr));
    uint32_t index = 0;
    if (count < 1 || napi_get_value_uint32(env, args[0], &index) != napi_ok || index >= ops.size())
      throw std::runtime_error("callOp: the first argument is no op index");
    op = &ops[index];
    const auto& schema = op->handle.schema();
    const auto& parameters = schema.arguments();
    if (count - 1 > parameters.size())
      throw std::runtime_error("takes " + std::to_string(parameters.size()) + " arguments, got " + std::to_string(count - 1));
    torch::jit::Stack stack;
    stack.reserve(parameters.size());
    for (size_t i = 0; i < parameters.size(); i++) {
      const auto& parameter = parameters[i];
      napi_value value = i + 1 < count ? args[i + 1] : nullptr;
      if (!value || type_of(env, value) == napi_undefined) {
        if (parameter.default_value()) {
          stack.push_back(*parameter.default_value());
          continue;
        }
        if (parameter.type()->kind() == c10::TypeKind::OptionalType) {
          stack.emplace_back();
          continue;
        }
        throw std::runtime_error("argument '" + parameter.name() + "' is missing");
      }
      try {
        stack.push_back(to_ivalue(env, value, parameter));
      } catch (const c10::Error& error) {
        throw std::runtime_error(about(parameter) + error.what_without_backtrace());
      } catch (const std::runtime_error& error) {
        throw std::runtime_error(about(parameter) + error.what());
      }
    }
    check_statistics(*op, stack);
    op->handle.callBoxed(stack);
    const auto result = [&](size_t i) -> napi_value {
      if (op->aliases[i] >= 0) return number(env, -1.0 - op->aliases[i]);
      // libtorch returns a dtype as an integer; JavaScript gets its name, which is also what it passes in.
      if (stack[i].isInt() && schema.returns()[i].real_type()->kind() == c10::TypeKind::ScalarTypeType) {
        const char* name = dtype_name(static_cast<c10::ScalarType>(stack[i].toInt()));
        if (name) return string(env, name);
      }
      return from_ivalue(env, stack[i]);
    };
    if (stack.empty()) return undefined(env);
    if (stack.size() == 1) return result(0);
    napi_value array;
    NAPI_OK(napi_create_array_with_length(env, stack.size(), &array));
    for (uint32_t i = 0; i < stack.size(); i++) NAPI_OK(napi_set_element(env, array, i, result(i)));
    return array;
  }, [&] { return op ? op->name : std::string("callOp"); });
}

// allOps() -> every schema of libtorch itself, sorted.
napi_value all_ops(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    std::vector<std::string> schemas;
    for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
      const auto handle = c10::Dispatcher::singleton().findOp(name);
      if (!handle || !handle->hasSchema()) continue;
      if (handle->schema().name().starts_with("ivtlr::")) continue;  // this addon's own
      std::ostringstream text;
      text << handle->schema();
      schemas.push_back(text.str());
    }
    std::sort(schemas.begin(), schemas.end());
    napi_value result;
    NAPI_OK(napi_create_array_with_length(env, schemas.size(), &result));
    for (uint32_t i = 0; i < schemas.size(); i++) NAPI_OK(napi_set_element(env, result, i, string(env, schemas[i])));
    return result;
  });
}

}  // namespace ivtlr
