/* C++: a method leaks through new and new[]; containers grow and are given back. */
#include "protocol.h"
#include <memory>
#include <string>
#include <vector>

namespace shop {

struct Receipt {
    char text[120];
};

template <typename T> class Cache {
public:
    NOINLINE T *remember(int count);

private:
    NOINLINE T *entry()
    {
        T *made = new T;
        keep(made);
        return made;
    }
};

template <typename T> T *Cache<T>::remember(int count)
{
    T *last = nullptr;
    for (int i = 0; i < count; i++)
        last = entry();
    return last;
}

class Ledger {
public:
    NOINLINE long *pages(int count)
    {
        long *last = nullptr;
        for (int i = 0; i < count; i++)
            last = open_page();
        return last;
    }

private:
    NOINLINE long *open_page()
    {
        long *made = new long[100];
        keep(made);
        return made;
    }
};

NOINLINE static std::size_t grow_and_drop()
{
    std::vector<std::string> words;
    for (int i = 0; i < 1000; i++)
        words.push_back(std::string(100, 'x'));
    auto owned = std::make_unique<Receipt>();
    keep(owned.get());
    return words.size();
}

NOINLINE static std::vector<std::string> *leak_container()
{
    auto *words = new std::vector<std::string>;
    words->reserve(10);
    keep(words);
    return words;
}

} // namespace shop

int main()
{
    static shop::Cache<shop::Receipt> cache;
    static shop::Ledger ledger;
    say("ready");
    await_line();
    cache.remember(50);
    ledger.pages(20);
    must(shop::grow_and_drop() == 1000, "grow_and_drop");
    shop::leak_container();
    /* 50 receipts of 120, 20 pages of 800, one vector with room for ten strings. */
    say("done leaked_bytes=%zu leaked_blocks=72",
        50 * sizeof(shop::Receipt) + 20 * 100 * sizeof(long) + sizeof(std::vector<std::string>) +
            10 * sizeof(std::string));
    await_line();
    return 0;
}
