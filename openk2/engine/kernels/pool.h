// Threads that wait for work: they spin for a moment, because within a token the next piece is microseconds away,
// and sleep after that. Each has a share of neighbouring tasks, whose memory it reads in one stream, and then helps
// others with theirs. The caller works too and waits only for tasks that were begun, so that a thread which the machine
// has put aside, or one that a fork did not copy, holds nothing up.
#pragma once
#include <algorithm>
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
        threads = int(std::min<int64_t>({threads, tasks, MOST}));
        grow(threads - 1);
        generation_++;
        // Closed while the fields change: a late thread can then never take a task of one job with the fields of another.
        for (int i = 0; i < opened_; i++) shares_[i].ticket.store(uint64_t(generation_) << 32 | CLOSED);
        work_.store(work, std::memory_order_release);
        context_.store(context, std::memory_order_release);
        tasks_.store(tasks, std::memory_order_release);
        threads_of_job_.store(threads, std::memory_order_release);
        done_.store(0, std::memory_order_relaxed);
        opened_ = threads;
        for (int i = 0; i < threads; i++)
            shares_[i].ticket.store(uint64_t(generation_) << 32 | uint64_t(first(i, tasks, threads)));
        if (sleeping_.load() > 0) {
            std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        take_all(0);
        for (int spins = 0; done_.load(std::memory_order_acquire) < tasks; spins++)
            if (spins < 2000) relax(); else std::this_thread::yield();
        busy_.store(false, std::memory_order_release);
    }

  private:
    static constexpr uint64_t CLOSED = 0xffffffff;
    static constexpr int SPINS = 20000;  // about 100 microseconds to a millisecond, by the processor's pause
    static constexpr int MOST = 256;     // threads

    struct alignas(64) Share {
        std::atomic<uint64_t> ticket{CLOSED};  // generation, and the next task
    };

    static int64_t first(int share, int64_t tasks, int threads) { return tasks * share / threads; }

    void grow(int count) {
        while (int(threads_.size()) < count) {
            int index = int(threads_.size()) + 1;
            try {
                threads_.emplace_back([this, index] { loop(index); });
            } catch (const std::system_error &) {  // no more threads: fewer do the work
                return;
            }
            threads_.back().detach();
        }
    }

    bool open(int share, uint64_t ticket) const {
        const int threads = threads_of_job_.load(std::memory_order_acquire);
        return (ticket & CLOSED) != CLOSED && share < threads &&
               int64_t(ticket & CLOSED) < first(share + 1, tasks_.load(std::memory_order_acquire), threads);
    }

    // Take and do one task of a share; false when none is left.
    bool take(int share) {
        uint64_t ticket = shares_[share].ticket.load(std::memory_order_acquire);
        do {
            if (!open(share, ticket)) return false;
            // The fields are this ticket's if the exchange succeeds: they change only behind a closed ticket.
            auto work = work_.load(std::memory_order_acquire);
            auto context = context_.load(std::memory_order_acquire);
            if (shares_[share].ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
                work(context, int64_t(ticket & CLOSED));
                done_.fetch_add(1, std::memory_order_release);
                return true;
            }
        } while (true);
    }

    // The own share, then what is left of the others.
    void take_all(int own) {
        const int threads = threads_of_job_.load(std::memory_order_acquire);
        for (int i = 0; i < threads; i++)
            while (take((own + i) % threads)) {
            }
    }

    bool wanted(int index) const { return open(index, shares_[index].ticket.load()); }

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
            take_all(index);
        }
    }

    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<int> sleeping_{0};
    std::atomic<bool> busy_{false};
    uint32_t generation_ = 0;
    int opened_ = 0;  // shares of the job before
    Share shares_[MOST];
    std::atomic<int64_t> tasks_{0}, done_{0};
    std::atomic<int> threads_of_job_{0};
    std::atomic<void (*)(void *, int64_t)> work_{nullptr};
    std::atomic<void *> context_{nullptr};
};

// parallel(n, threads, [&](int64_t i) { ... })
template <class Body> void parallel(int64_t tasks, int threads, const Body &body) {
    Pool::shared().run([](void *context, int64_t i) { (*static_cast<const Body *>(context))(i); },
                       const_cast<Body *>(&body), tasks, threads);
}
