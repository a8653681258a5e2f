// See tokenizer_sp.h: the only door to SentencePiece.
#include "router/request/tokenizer_sp.h"

#include <cstdio>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>

struct um_sp {
    sentencepiece::SentencePieceProcessor processor;
};

// SentencePiece fills strings and tables that all models share when the first one is read and asked: one thread at a time.
static std::mutex &opening()
{
    static std::mutex m;
    return m;
}

um_sp *um_sp_open(const void *model, size_t bytes, char *why, size_t why_bytes)
{
    um_sp *sp = nullptr;
    try {
        std::lock_guard<std::mutex> one(opening());
        sp = new um_sp;
        auto status = sp->processor.LoadFromSerializedProto(
            std::string(static_cast<const char *>(model), bytes));
        if (status.ok()) {
            (void)(sp->processor.bos_id() + sp->processor.eos_id() + sp->processor.unk_id());
            return sp;
        }
        std::snprintf(why, why_bytes, "%s", status.ToString().c_str());
    } catch (const std::exception &e) {
        std::snprintf(why, why_bytes, "%s", e.what());
    } catch (...) {
        std::snprintf(why, why_bytes, "unknown fault in SentencePiece");
    }
    delete sp;
    return nullptr;
}

void um_sp_close(um_sp *sp) { delete sp; }
int um_sp_vocab(const um_sp *sp) { return sp->processor.GetPieceSize(); }
int um_sp_bos(const um_sp *sp) { return sp->processor.bos_id(); }
int um_sp_eos(const um_sp *sp) { return sp->processor.eos_id(); }
int um_sp_unk(const um_sp *sp) { return sp->processor.unk_id(); }

size_t um_sp_piece_bytes(const um_sp *sp, int32_t id)
{
    if (sp->processor.IsUnknown(id) || sp->processor.IsControl(id)) return 0;
    if (sp->processor.IsByte(id)) return 1;
    static const std::string mark = "\xe2\x96\x81"; // U+2581 stands for a space
    const std::string &piece = sp->processor.IdToPiece(id);
    size_t n = piece.size();
    for (size_t at = piece.find(mark); at != std::string::npos; at = piece.find(mark, at + 3))
        n -= 2;
    return n;
}

int um_sp_byte(const um_sp *sp, int32_t id)
{
    if (!sp->processor.IsByte(id)) return -1;
    unsigned value = 0; // spelled <0x41>
    return std::sscanf(sp->processor.IdToPiece(id).c_str(), "<0x%2x>", &value) == 1 ? (int)value
                                                                                    : -1;
}

int um_sp_encode(const um_sp *sp, const char *text, size_t n, void (*take)(void *ctx, int32_t id),
                 void *ctx)
{
    try {
        std::vector<int> ids;
        if (!sp->processor.Encode(std::string(text, n), &ids).ok()) return -1;
        for (int id : ids) take(ctx, id);
        return 0;
    } catch (...) {
        return -1;
    }
}

int um_sp_encode_at(const um_sp *sp, const char *text, size_t n,
                    void (*take)(void *ctx, int32_t id, size_t at), void *ctx)
{
    try {
        const auto pieces = sp->processor.EncodeAsImmutableProto(std::string(text, n));
        for (const auto &p : pieces.pieces()) take(ctx, (int32_t)p.id(), p.begin());
        return 0;
    } catch (...) {
        return -1;
    }
}

int um_sp_decode(const um_sp *sp, const int32_t *ids, int n,
                 void (*take)(void *ctx, const char *text, size_t n), void *ctx)
{
    try {
        std::string text;
        if (!sp->processor.Decode(std::vector<int>(ids, ids + n), &text).ok()) return -1;
        take(ctx, text.data(), text.size());
        return 0;
    } catch (...) {
        return -1;
    }
}
