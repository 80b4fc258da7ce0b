#include "peers.h"

#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <map>
#include <thread>

#include "addon.h"

namespace ivtlr {
namespace {

// By the group's name. Never destroyed: others may look there until the end of the process.
std::map<std::string, PeerGroup>& groups = *new std::map<std::string, PeerGroup>();

uint64_t bytes_read = 0;

bool read_memory(pid_t pid, uint64_t address, void* into, size_t bytes) {
  auto* to = static_cast<char*>(into);
  while (bytes > 0) {
    iovec local{to, bytes}, remote{reinterpret_cast<void*>(address), bytes};
    const ssize_t count = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (count <= 0) return false;
    to += count;
    address += static_cast<uint64_t>(count);
    bytes -= static_cast<size_t>(count);
  }
  return true;
}

// Looks at a number in another process's memory until it is the wanted one. Processes arrive at about the same time, so it first looks again at once,
// and then ever less often.
void await_number(const Peer& peer, uint64_t address, uint64_t wanted, Milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int looks = 0;; looks++) {
    uint64_t found = 0;
    read_or_throw(peer, address, &found, sizeof found);
    if (found == wanted) return;
    const auto waited = Clock::now() - start;
    if (waited > timeout)
      throw std::runtime_error("Timed out waiting " + std::to_string(timeout.count()) + " ms for rank " + std::to_string(peer.rank));
    if (waited < std::chrono::microseconds(200)) sched_yield();
    else std::this_thread::sleep_for(waited < Milliseconds(20) ? std::chrono::microseconds(50) : std::chrono::microseconds(500));
  }
}

}  // namespace

const PeerGroup* peers_of(const std::string& group) {
  const auto found = groups.find(group);
  return found == groups.end() || !found->second.mailbox || found->second.peers.empty() ? nullptr : &found->second;
}

void read_or_throw(const Peer& peer, uint64_t address, void* into, size_t bytes) {
  if (!read_memory(peer.pid, address, into, bytes))
    throw std::runtime_error("the memory of rank " + std::to_string(peer.rank) + " cannot be read: " + std::strerror(errno));
}

void read_tensor(const Peer& peer, uint64_t address, const at::Tensor& into) {
  read_or_throw(peer, address, into.data_ptr(), into.nbytes());
  bytes_read += into.nbytes();
}

void count_read(uint64_t bytes) { bytes_read += bytes; }

uint64_t await_lent(const Peer& peer, uint64_t exchange, Milliseconds timeout) {
  const uint64_t slot = peer.mailbox + offsetof(Mailbox, lent) + exchange % exchange_slots * sizeof(Mailbox::Slot);
  await_number(peer, slot + offsetof(Mailbox::Slot, exchange), exchange, timeout);
  uint64_t address = 0;
  read_or_throw(peer, slot + offsetof(Mailbox::Slot, address), &address, sizeof address);
  return address;
}

void await_read(const Peer& peer, uint64_t exchange, Milliseconds timeout) {
  await_number(peer, peer.mailbox + offsetof(Mailbox, read) + exchange % exchange_slots * sizeof(uint64_t), exchange, timeout);
}

void lend(Mailbox& mailbox, uint64_t exchange, const void* address) {
  auto& slot = mailbox.lent[exchange % exchange_slots];
  slot.address.store(static_cast<uint64_t>(reinterpret_cast<uintptr_t>(address)));
  slot.exchange.store(exchange);
}

void tell_read(Mailbox& mailbox, uint64_t exchange) { mailbox.read[exchange % exchange_slots].store(exchange); }

// describeMemory(group) -> what another process of it needs to know to find out whether it may read this one's memory
napi_value describe_memory(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 1);
    std::string boot;
    std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
    char space[64] = "";
    if (readlink("/proc/self/ns/pid", space, sizeof space - 1) < 0) space[0] = 0;
    auto* mailbox = new Mailbox();
    groups[to_string(env, args[0])].mailbox = mailbox;
    const auto address = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(mailbox));
    // Another process's memory hardly holds the same number in this place.
    const uint64_t probe = static_cast<uint64_t>(getpid()) << 32 ^ address ^ static_cast<uint64_t>(time(nullptr)) << 16;
    mailbox->probe.store(probe);
    return string(env, boot + " " + space + " " + std::to_string(getpid()) + " " + std::to_string(address) + " " + std::to_string(probe));
  }, [] { return std::string("describeMemory"); });
}

// canReadMemory(pid, address of the mailbox and its probe as described) -> whether this process may read that one's memory
napi_value can_read_memory(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 3);
    uint64_t found = 0;
    const bool ok = read_memory(static_cast<pid_t>(to_int(env, args[0])), std::stoull(to_string(env, args[1])), &found, sizeof found) &&
                    found == std::stoull(to_string(env, args[2]));
    napi_value result;
    NAPI_OK(napi_get_boolean(env, ok, &result));
    return result;
  }, [] { return std::string("canReadMemory"); });
}

// setPeers(group, for every rank: [pid, address of its mailbox, whether this process reads its memory, whether it reads this one's])
napi_value set_peers(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto args = arguments(env, info, 2);
    std::vector<Peer> peers;
    for (uint32_t i = 0; i < array_length(env, args[1]); i++) {
      const napi_value entry = element(env, args[1], i);
      Peer peer;
      peer.rank = static_cast<int>(i);
      peer.pid = static_cast<pid_t>(to_int(env, element(env, entry, 0)));
      peer.mailbox = std::stoull(to_string(env, element(env, entry, 1)));
      peer.can_read = to_bool(env, element(env, entry, 2));
      peer.reads_mine = to_bool(env, element(env, entry, 3));
      // Who is read must also be able to see that it was.
      peer.can_read = peer.can_read && peer.reads_mine;
      peer.reads_mine = peer.can_read;
      peers.push_back(peer);
    }
    groups[to_string(env, args[0])].peers = std::move(peers);
    return undefined(env);
  }, [] { return std::string("setPeers"); });
}

// bytesRead() -> bytes that this process has read from the memory of others
napi_value bytes_read_so_far(napi_env env, napi_callback_info) {
  return guarded(env, [&] { return number(env, static_cast<double>(bytes_read)); }, [] { return std::string("bytesRead"); });
}

}  // namespace ivtlr
