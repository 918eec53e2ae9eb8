// Which work is known to be done before which other: a vector clock for each stream, and for each piece of memory the
// time at which each stream used it last.
#pragma once

#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>

using Clock = std::map<int, int64_t>;  // by stream

inline std::recursive_mutex streams_lock;
inline std::map<int, Clock> known{
    {0, {}}};  // of each stream: how much of every stream's work is done before what it begins now
inline std::map<int64_t, Clock> events;
inline std::atomic<int> races{0};  // that could not be raised
inline thread_local int current_stream = 0;

inline void merge(Clock& into, const Clock& from) {
  for (auto [stream, time] : from) into[stream] = std::max(into[stream], time);
}

// Of a piece of memory.
struct Uses {
  int made_on = 0, written_on = 0;
  int64_t written_at = 0;
  Clock used_at;           // by stream
  std::set<int> recorded;  // `record_stream`: freeing waits for these
};

[[noreturn]] inline void race(const std::string& what) {
  TORCH_CHECK(false, "race between streams: ", what);
  abort();  // for the compiler: the line above has raised
}

inline void use(Uses& uses, bool writes, const std::string& what) {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  auto& clock = known[current_stream];
  if (uses.written_on != current_stream && clock[uses.written_on] < uses.written_at)
    race(what + " uses memory that stream " + std::to_string(uses.written_on) + " may still write");
  for (auto [stream, time] : uses.used_at)
    if (writes && stream != current_stream && clock[stream] < time)
      race(what + " writes memory that stream " + std::to_string(stream) + " may still use");
  int64_t now = ++clock[current_stream];
  uses.used_at[current_stream] = now;
  if (writes) uses.written_on = current_stream, uses.written_at = now;
}

// Whether memory could be given to other work of its stream while a stream still uses it.
inline bool is_freed_too_early(const Uses& uses) {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  for (auto [stream, time] : uses.used_at)
    if (stream != uses.made_on && !uses.recorded.count(stream) && known[uses.made_on][stream] < time) return true;
  return false;
}

// The host waits for a stream, so that whatever it begins later comes after.
inline void host_knows(int stream) {
  std::lock_guard<std::recursive_mutex> guard(streams_lock);
  Clock done = known[stream];
  for (auto& [_, clock] : known) merge(clock, done);
}
