// Processes of one machine that may read each other's memory (process_vm_readv): finding each other, saying where in memory something is that the
// others may read (it is lent to an exchange), and that it has been read.
#pragma once
#include <ATen/ATen.h>
#include <node_api.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <string>
#include <vector>

namespace ivtlr {

using Milliseconds = std::chrono::milliseconds;

// Exchanges that can be under way at one time; the places of older ones are used again.
constexpr int64_t exchange_slots = 1024;

// Where the others look, in this process's memory: what it lends to which exchange, and which exchanges it has read all for. Exchanges count from 1.
struct Mailbox {
  std::atomic<uint64_t> probe;  // what others try to read, to see whether they may
  struct Slot {
    std::atomic<uint64_t> exchange;
    std::atomic<uint64_t> address;
  };
  Slot lent[exchange_slots];
  std::atomic<uint64_t> read[exchange_slots];
};

// What a process knows of another one of its machine.
struct Peer {
  int rank = 0;
  pid_t pid = 0;
  bool can_read = false;    // this process may read its memory
  bool reads_mine = false;  // it may read the memory of this one
  uint64_t mailbox = 0;     // address in its memory
};

struct PeerGroup {
  Mailbox* mailbox = nullptr;  // this process's
  std::vector<Peer> peers;     // by rank
};

// Null where everything goes by messages.
const PeerGroup* peers_of(const std::string& group);

// These throw when the memory cannot be read, or when nothing has come within the timeout.
void read_or_throw(const Peer& peer, uint64_t address, void* into, size_t bytes);
// Counted by bytesRead().
void read_tensor(const Peer& peer, uint64_t address, const at::Tensor& into);
// Waits until the peer has lent something to the exchange: where it is in its memory.
uint64_t await_lent(const Peer& peer, uint64_t exchange, Milliseconds timeout);
// Waits until the peer has read everything for the exchange.
void await_read(const Peer& peer, uint64_t exchange, Milliseconds timeout);

void lend(Mailbox& mailbox, uint64_t exchange, const void* address);
void tell_read(Mailbox& mailbox, uint64_t exchange);
// Bytes that this process reads in the memory of others without a copy.
void count_read(uint64_t bytes);

napi_value describe_memory(napi_env env, napi_callback_info info);
napi_value can_read_memory(napi_env env, napi_callback_info info);
napi_value set_peers(napi_env env, napi_callback_info info);
napi_value bytes_read_so_far(napi_env env, napi_callback_info info);

}  // namespace ivtlr
