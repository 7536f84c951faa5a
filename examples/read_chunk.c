/* Print what a chunk file holds, with no library at all: the format is specified in structchunk/chunks/chunk.py.

       cc -std=c99 -o read_chunk examples/read_chunk.c
       ./read_chunk sensors.sc/chunks/00000001.chunk

   The first line is what the chunk says of itself: a JSON text with the store's name and type. Then comes a line
   for each record, by key: its values, if they are numbers, else its bytes as hexadecimal digits.

   A store can have several chunks. This shows one of them: of a key that is in several, the row of the newest
   commit is the one that counts, so to read all chunks take their segments together, in order of commit number.
   Of a database that was not closed, the last commits may be such as opening would take back: those of which a part
   is missing in another chunk. Data CRCs are not checked here. */

#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIXED_SIZE = 104, RECORD_SIZE = 64, ROW_SIZE = 32, HEAD_SIZE = 24 };
enum { ALL, KEYS, EVEN }; /* forms of rows */
enum { REPLACES = 256 }; /* beside the form: the commit replaces the chunks that the header names */
enum { TOMBSTONE = 1, DROPPED = 8 };

typedef struct {
    uint64_t key, offset, length;
    uint32_t chunk, flags;
    size_t order; /* rows found later are newer */
} Row;

typedef struct {
    const unsigned char *base;
    uint64_t item_size, data_offset, size;
    uint32_t chunk;
    char type[4]; /* NumPy's name of a number, such as "<f8"; empty if items are something else */
} Chunk;

static void require(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "not a sound chunk file: %s\n", what);
        exit(EXIT_FAILURE);
    }
}

/* Byte by byte, so that neither this machine's byte order nor alignment matters. */
static uint64_t number(const unsigned char *bytes, int size, int big_endian)
{
    uint64_t value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | bytes[big_endian ? i : size - 1 - i];
    return value;
}

static uint32_t u4(const unsigned char *bytes) { return (uint32_t)number(bytes, 4, 0); }
static uint64_t u8(const unsigned char *bytes) { return number(bytes, 8, 0); }

static uint32_t crc32(uint32_t crc, const unsigned char *bytes, uint64_t size)
{
    crc = ~crc;
    while (size--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

static Chunk read_header(const unsigned char *base, uint64_t size)
{
    static const char array[] = "\"schema\":{\"kind\":\"array\",\"type\":\"";
    Chunk chunk = {base, 0, 0, size, 0, ""};

    require(size >= FIXED_SIZE && !memcmp(base, "STRUCTCK", 8), "no magic");
    require(u4(base + 8) == 1 || u4(base + 8) == 2, "format version is neither 1 nor 2");
    require(u8(base + 56) == size, "the file is not of the size that it says");
    uint64_t header_size = u4(base + 12), text_size = u4(base + 72), ids_size = 4 * (uint64_t)u4(base + 76);
    require(header_size <= size && FIXED_SIZE + text_size + ids_size <= header_size, "header size");
    uint32_t crc = crc32(crc32(0, base, 80), base + FIXED_SIZE, text_size + ids_size);
    require(crc == u4(base + 80), "CRC of the header");
    chunk.chunk = u4(base + 32);
    chunk.item_size = u8(base + 40);
    chunk.data_offset = u8(base + 48);
    require(chunk.item_size > 0 && chunk.data_offset >= header_size && chunk.data_offset <= size, "data offset");

    char *text = calloc(text_size + 1, 1);
    require(text != NULL, "no memory for the header");
    memcpy(text, base + FIXED_SIZE, text_size);
    puts(text);
    const char *type = strstr(text, array); /* a name cannot have this in it: its quotes are escaped */
    if (type)
        type += strlen(array);
    if (type && strspn(type + 1, "iufb") && type[2] == (char)('0' + chunk.item_size) && type[3] == '"')
        memcpy(chunk.type, type, 3);
    free(text);
    return chunk;
}

/* How many bytes rows take in one of their forms; more than any file has if there is no such form. */
static uint64_t size_of(uint32_t form, uint64_t count)
{
    if (form == ALL)
        return count * ROW_SIZE;
    if (form > EVEN || !count)
        return UINT64_MAX;
    uint64_t size = HEAD_SIZE + (form == KEYS ? count * 8 : 16);
    return (size + ROW_SIZE - 1) / ROW_SIZE * ROW_SIZE;
}

/* In the forms KEYS and EVEN, records have one length and lie back to back; EVEN keys rise by the same step. */
static Row unpack_row(const Chunk *chunk, const unsigned char *rows, uint32_t form, uint64_t at)
{
    const unsigned char *row = rows + at * ROW_SIZE, *keys = rows + HEAD_SIZE;
    if (form == ALL)
        return (Row){u8(row), u8(row + 8), u8(row + 16), u4(row + 24), u4(row + 28), 0};
    uint64_t key = form == KEYS ? u8(keys + 8 * at) : u8(keys) + at * u8(keys + 8), length = u8(rows + 8);
    return (Row){key, u8(rows) + at * length * chunk->item_size, length, u4(rows + 16), u4(rows + 20), 0};
}

static Row read_row(const Chunk *chunk, Row row, uint64_t start, uint64_t end, size_t order)
{
    row.order = order;
    require(row.chunk == chunk->chunk, "a row of another chunk");
    if (!(row.flags & TOMBSTONE)) {
        require(row.offset >= start && row.offset <= end, "a record outside of its segment");
        require(row.offset % chunk->item_size == 0, "a record between two items");
        require(row.length <= (end - row.offset) / chunk->item_size, "a record that is too long");
    }
    return row;
}

/* Walk down from the end of the file, segment by segment, until there is none. */
static size_t read_directory(const Chunk *chunk, Row **rows)
{
    size_t row_count = 0;
    uint64_t position = chunk->size;

    while (position >= chunk->data_offset + RECORD_SIZE) {
        const unsigned char *record = chunk->base + (position -= RECORD_SIZE);
        uint64_t count = u4(record + 12), start = u8(record + 32), end = u8(record + 40);
        if (memcmp(record, "SEGM", 4) || crc32(chunk->chunk, record, 60) != u4(record + 60))
            break;
        uint32_t form = u4(record + 56) & ~(uint32_t)REPLACES;
        uint64_t size = size_of(form, count);
        uint64_t room = position - chunk->data_offset; /* for rows of any form, even if few bytes say them */
        if (size > room || count * ROW_SIZE > room)
            break;
        position -= size;
        const unsigned char *bytes = chunk->base + position;
        if (crc32(0, bytes, size) != u4(record + 52))
            break;
        require(chunk->data_offset <= start && start <= end && end <= position, "a segment outside of the file");

        *rows = realloc(*rows, (row_count + count + 1) * sizeof **rows);
        require(*rows != NULL, "no memory for the rows");
        for (uint64_t at = 0; at < count; at++, row_count++)
            (*rows)[row_count] = read_row(chunk, unpack_row(chunk, bytes, form, at), start, end, row_count);
        if (row_count && (*rows)[row_count - 1].flags & DROPPED)
            row_count = 0; /* the store was dropped, with all that it had */
    }
    return row_count;
}

static int by_key_and_age(const void *one, const void *other)
{
    const Row *a = one, *b = other;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

static void print_item(const Chunk *chunk, const unsigned char *item)
{
    int size = (int)chunk->item_size;
    uint64_t bits = chunk->type[0] ? number(item, size, chunk->type[0] == '>') : 0;
    uint32_t half = (uint32_t)bits;
    double wide;
    float narrow;

    if (chunk->type[1] == 'f' && size == 8) {
        memcpy(&wide, &bits, sizeof wide);
        printf(" %.17g", wide);
    } else if (chunk->type[1] == 'f' && size == 4) {
        memcpy(&narrow, &half, sizeof narrow);
        printf(" %.9g", narrow);
    } else if (chunk->type[1] == 'i') {
        uint64_t sign = (uint64_t)1 << (8 * size - 1);
        printf(" %" PRId64, (int64_t)((bits ^ sign) - sign));
    } else if (chunk->type[1] == 'u' || chunk->type[1] == 'b') {
        printf(" %" PRIu64, bits);
    } else {
        putchar(' ');
        for (uint64_t i = 0; i < chunk->item_size; i++)
            printf("%02x", item[i]);
    }
}

static void print_record(const Chunk *chunk, const Row *row)
{
    printf("%" PRIu64 ":", row->key);
    for (uint64_t i = 0; i < row->length; i++)
        print_item(chunk, chunk->base + row->offset + i * chunk->item_size);
    putchar('\n');
}

int main(int count, char **arguments)
{
    struct stat status;
    int file = count == 2 ? open(arguments[1], O_RDONLY) : -1;

    if (file < 0 || fstat(file, &status)) {
        fprintf(stderr, "usage: %s FILE, a chunk file that can be read\n", arguments[0]);
        return EXIT_FAILURE;
    }
    require(status.st_size > 0, "it is empty");
    void *base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0);
    require(base != MAP_FAILED, "it cannot be mapped");
    Chunk chunk = read_header(base, (uint64_t)status.st_size);

    Row *rows = NULL;
    size_t row_count = read_directory(&chunk, &rows);
    if (row_count)
        qsort(rows, row_count, sizeof *rows, by_key_and_age);
    for (size_t i = 0; i < row_count; i++) { /* of each key the last row counts */
        int last = i + 1 == row_count || rows[i + 1].key != rows[i].key;
        if (last && !(rows[i].flags & TOMBSTONE))
            print_record(&chunk, &rows[i]);
    }
    free(rows);
    return EXIT_SUCCESS;
}
