// Threads that wait for work: they spin for a moment, because within a token the next piece is microseconds away,
// and sleep after that. The caller works too and waits only for tasks that were begun, so that a thread which the
// machine has put aside, or one that a fork did not copy, holds nothing up.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

class Pool {
  public:
    static Pool &shared() {
        static Pool *pool = new Pool;  // never destroyed: its threads may outlive main
        return *pool;
    }

    // Call work(context, i) for each i in [0, tasks), on up to `threads` threads. Nested or simultaneous calls from
    // other threads run on the calling thread alone.
    void run(void (*work)(void *, int64_t), void *context, int64_t tasks, int threads) {
        if (threads <= 1 || tasks <= 1 || busy_.exchange(true, std::memory_order_acquire)) {
            for (int64_t i = 0; i < tasks; i++) work(context, i);
            return;
        }
        grow(threads - 1);
        generation_++;
        // Closed while the fields change: a late thread can then never take a task of one job with the fields of another.
        ticket_.store(uint64_t(generation_) << 32 | CLOSED);
        work_.store(work, std::memory_order_release);
        context_.store(context, std::memory_order_release);
        tasks_.store(tasks, std::memory_order_release);
        helpers_.store(threads - 1, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        ticket_.store(uint64_t(generation_) << 32);
        if (sleeping_.load() > 0) {
            std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        while (take()) {
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) < tasks; spins++)
            if (spins < 2000) relax(); else std::this_thread::yield();
        busy_.store(false, std::memory_order_release);
    }

  private:
    static constexpr uint64_t CLOSED = 0xffffffff;
    static constexpr int SPINS = 20000;  // about 100 microseconds to a millisecond, by the processor's pause

    void grow(int count) {
        while (int(threads_.size()) < count) {
            int index = int(threads_.size());
            try {
                threads_.emplace_back([this, index] { loop(index); });
            } catch (const std::system_error &) {  // no more threads: fewer do the work
                return;
            }
            threads_.back().detach();
        }
    }

    bool open(uint64_t ticket) const { return int64_t(ticket & CLOSED) < tasks_.load(std::memory_order_acquire); }

    // Take and do one task; false when none is left.
    bool take() {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        do {
            if ((ticket & CLOSED) == CLOSED || !open(ticket)) return false;
            // The fields are this ticket's if the exchange succeeds: they change only behind a closed ticket.
            auto work = work_.load(std::memory_order_acquire);
            auto context = context_.load(std::memory_order_acquire);
            if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
                work(context, int64_t(ticket & CLOSED));
                done_.fetch_add(1, std::memory_order_release);
                return true;
            }
        } while (true);
    }

    bool wanted(int index) const {
        uint64_t ticket = ticket_.load();
        return (ticket & CLOSED) != CLOSED && index < helpers_.load(std::memory_order_relaxed) && open(ticket);
    }

    void loop(int index) {
        for (;;) {
            int spins = 0;
            while (!wanted(index) && spins < SPINS) {
                relax();
                spins++;
            }
            if (spins == SPINS) {
                std::unique_lock<std::mutex> lock(mutex_);
                sleeping_.fetch_add(1);
                wake_.wait(lock, [&] { return wanted(index); });
                sleeping_.fetch_sub(1);
            }
            while (take()) {
            }
        }
    }

    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<int> sleeping_{0};
    std::atomic<bool> busy_{false};
    uint32_t generation_ = 0;
    std::atomic<uint64_t> ticket_{CLOSED};
    std::atomic<int64_t> tasks_{0}, done_{0};
    std::atomic<int> helpers_{0};
    std::atomic<void (*)(void *, int64_t)> work_{nullptr};
    std::atomic<void *> context_{nullptr};
};

// parallel(n, threads, [&](int64_t i) { ... })
template <class Body> void parallel(int64_t tasks, int threads, const Body &body) {
    Pool::shared().run([](void *context, int64_t i) { (*static_cast<const Body *>(context))(i); },
                       const_cast<Body *>(&body), tasks, threads);
}
