// What wraps every native function: it reads the arguments and turns C++ exceptions into JavaScript ones.
#pragma once
#include <c10/util/Exception.h>
#include <node_api.h>

#include <string>
#include <vector>

#include "convert.h"

namespace ivtlr {

// Throws a TorchError in JavaScript, or its kind for memory: `op` becomes its property, `message` is cut to its first line.
void throw_error(napi_env env, const std::string& op, const std::string& message, bool out_of_memory = false);

std::vector<napi_value> arguments(napi_env env, napi_callback_info info, size_t count);

template <typename Body, typename Name>
napi_value guarded(napi_env env, Body body, Name name) {
  try {
    return body();
  } catch (const Pending&) {
  } catch (const c10::OutOfMemoryError& error) {
    throw_error(env, name(), error.what_without_backtrace(), true);
  } catch (const c10::Error& error) {
    const std::string message = error.what_without_backtrace();
    throw_error(env, name(), message, message.find("DefaultCPUAllocator: ") != std::string::npos);
  } catch (const std::exception& error) {
    throw_error(env, name(), error.what());
  } catch (...) {
    throw_error(env, name(), "unknown C++ exception");
  }
  return nullptr;
}

template <typename Body>
napi_value guarded(napi_env env, Body body) {
  return guarded(env, body, [] { return std::string(); });
}

}  // namespace ivtlr
