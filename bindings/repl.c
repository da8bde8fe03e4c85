/* The prompt: history, completion and input over several lines with libedit; plain lines without
 * it. */
#include "lua_nnlua.h"

#include <errno.h>
#include <locale.h>
#include <lualib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

#include "repl.h"

#ifdef NNL_HAVE_LIBEDIT
#include <editline/readline.h>
#endif

#define LINE 4096

static const char first_prompt[] = "> ", next_prompt[] = ">> ";

/* ---------------------------------------------------------------- Ctrl-C while a line is typed */

static volatile sig_atomic_t pressed;
static pthread_t prompt_thread;

/* Threads of other libraries may get the signal; the wait is this one's. */
static void on_interrupt(int number)
{
    if (pthread_equal(pthread_self(), prompt_thread))
        pressed = 1;
    else
        pthread_kill(prompt_thread, number);
}

typedef struct signals {
    struct sigaction action;
    sigset_t mask;
} signals;

/* Reading goes on after most signals, but not after this one.  The editor lets it through only
 * while it waits, so that none comes between its look at `pressed` and the wait. */
static void catch_interrupt(signals *before, bool held)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    sigset_t interrupt;
    sigemptyset(&action.sa_mask);
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pressed = 0;
    prompt_thread = pthread_self();
    sigaction(SIGINT, &action, &before->action);
    pthread_sigmask(held ? SIG_BLOCK : SIG_UNBLOCK, &interrupt, &before->mask);
}

static void leave_interrupt(const signals *before)
{
    pthread_sigmask(SIG_SETMASK, &before->mask, NULL);
    sigaction(SIGINT, &before->action, NULL);
}

/* ---------------------------------------------------------------- completion */

#ifdef NNL_HAVE_LIBEDIT

/* readline's interface has no place for a user pointer. */
static lua_State *completing;

/* Runs nnlua.help.complete(line up to the cursor, word) -> list of whole words. */
static char *next_candidate(const char *word, int state)
{
    lua_State *L = completing;
    if (state == 0) {
        lua_settop(L, 0);
        lua_getglobal(L, "require");
        lua_pushliteral(L, "nnlua.help");
        if (lua_pcall(L, 1, 1, 0) != LUA_OK) return NULL;
        lua_getfield(L, -1, "complete");
        lua_pushlstring(L, rl_line_buffer, (size_t)rl_point);
        lua_pushstring(L, word);
        if (lua_pcall(L, 2, 1, 0) != LUA_OK || !lua_istable(L, -1)) return NULL;
    }
    if (!lua_istable(L, -1)) return NULL;
    lua_rawgeti(L, -1, state + 1);
    const char *candidate = lua_tostring(L, -1);
    char *copy = candidate ? strdup(candidate) : NULL;
    lua_pop(L, 1);
    return copy;
}

static char **complete(const char *word, int start, int end)
{
    (void)start;
    (void)end;
    rl_attempted_completion_over = 1;
    rl_completion_append_character = 0;
    return rl_completion_matches(word, next_candidate);
}

/* Waits for input; false after Ctrl-C, which goes before what was typed behind it. */
static bool wait_for_input(int fd)
{
    sigset_t held, open;
    pthread_sigmask(SIG_SETMASK, NULL, &held);
    open = held;
    sigdelset(&open, SIGINT);
    for (;;) {
        pthread_sigmask(SIG_SETMASK, &open, NULL); /* pselect takes none while there is input */
        pthread_sigmask(SIG_SETMASK, &held, NULL);
        if (pressed) return false;
        fd_set ready;
        FD_ZERO(&ready);
        FD_SET(fd, &ready);
        if (pselect(fd + 1, &ready, NULL, NULL, NULL, &open) >= 0 || errno != EINTR) return true;
    }
}

/* One character of UTF-8 from the terminal.  Ctrl-C ends the line, which read_line then drops:
 * readline itself has no way to give one up. */
static int get_character(FILE *in)
{
    unsigned char byte;
    int more = 0, character = 0;
    for (;;) {
        if (!wait_for_input(fileno(in))) {
            fputs("^C", stdout);
            return '\n';
        }
        ssize_t n = read(fileno(in), &byte, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return EOF;
        if (more > 0 && (byte & 0xc0) == 0x80) {
            character = character << 6 | (byte & 0x3f);
            more--;
        } else {
            more = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : byte >= 0xc0 ? 1 : 0;
            character = more ? byte & (0x3f >> more) : byte;
        }
        if (more == 0) return character;
    }
}

static bool history_file(char *path, size_t size)
{
    const char *home = getenv("HOME");
    return home && *home && nnl_format(path, size, "%s/.nnlua_history", home) < (int)size;
}

/* At the end of the program, which os.exit may bring about. */
static void keep_history(void)
{
    char path[1024];
    if (!history_file(path, sizeof path)) return;
    stifle_history(1000);
    write_history(path);
}

static void open_editor(lua_State *L)
{
    char path[1024];
    /* The editor's idea of what a character is; ours is UTF-8 in any case. */
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    completing = lua_newthread(L); /* a stack of its own; stays below everything else */
    rl_readline_name = "nnlua";
    rl_catch_signals = 0;
    rl_getc_function = get_character;
    rl_attempted_completion_function = complete;
    rl_basic_word_break_characters = " \t\n\"'`@$><=;|&{}()[]+-*/%^~#,";
    using_history();
    if (history_file(path, sizeof path)) read_history(path);
    atexit(keep_history);
}
#endif

/* ---------------------------------------------------------------- lines */

typedef enum reading { LINE_READ, INPUT_ENDS, LINE_DROPPED } reading;

/* Pushes a line when there is one. */
static reading edit_line(lua_State *L, bool editor, const char *prompt)
{
#ifdef NNL_HAVE_LIBEDIT
    if (editor) {
        char *line = readline(prompt);
        if (!line) return INPUT_ENDS;
        if (!pressed) lua_pushstring(L, line);
        if (!pressed && *line) add_history(line);
        free(line);
        return pressed ? LINE_DROPPED : LINE_READ;
    }
#endif
    (void)editor;
    luaL_Buffer b;
    char piece[LINE];
    bool any = false;
    if (isatty(STDIN_FILENO)) fputs(prompt, stdout);
    fflush(stdout);
    luaL_buffinit(L, &b);
    while (fgets(piece, sizeof piece, stdin)) {
        any = true;
        size_t length = strlen(piece);
        bool whole = length > 0 && piece[length - 1] == '\n';
        luaL_addlstring(&b, piece, whole ? length - 1 : length);
        if (whole) break;
    }
    luaL_pushresult(&b);
    if (any && !pressed) return LINE_READ;
    lua_pop(L, 1);
    if (!pressed) return INPUT_ENDS;
    clearerr(stdin);
    putchar('\n');
    return LINE_DROPPED;
}

static reading read_line(lua_State *L, bool editor, const char *prompt)
{
    signals before;
    bool terminal = isatty(STDIN_FILENO);
    pressed = 0;
    if (terminal) catch_interrupt(&before, editor);
    reading got = edit_line(L, editor, prompt);
    if (terminal) leave_interrupt(&before);
    return got;
}

static bool incomplete(lua_State *L, int status)
{
    static const char mark[] = "<eof>";
    size_t length;
    if (status != LUA_ERRSYNTAX) return false;
    const char *message = lua_tolstring(L, -1, &length);
    return length >= sizeof mark - 1 && strcmp(message + length - (sizeof mark - 1), mark) == 0;
}

/* An expression is tried first, so that its value is printed; then a statement, over lines until it
 * is whole. Puts the function or the message in the text's place; nothing, and false, when Ctrl-C
 * dropped it. */
static bool load_input(lua_State *L, bool editor, int *status)
{
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    lua_pushfstring(L, "return %s", text);
    *status = luaL_loadbuffer(L, lua_tostring(L, -1), length + 7, "=stdin");
    lua_remove(L, -2);
    if (*status == LUA_OK) {
        lua_remove(L, -2);
        return true;
    }
    lua_pop(L, 1);
    for (;;) {
        text = lua_tolstring(L, -1, &length);
        *status = luaL_loadbuffer(L, text, length, "=stdin");
        if (!incomplete(L, *status)) break;
        lua_pushliteral(L, "\n");
        reading got = read_line(L, editor, next_prompt);
        if (got == LINE_DROPPED) return false;
        if (got == INPUT_ENDS) {
            lua_pop(L, 1);
            break;
        }
        lua_remove(L, -3); /* the message */
        lua_concat(L, 3);
    }
    lua_remove(L, -2);
    return true;
}

/* Values are shown by nnlua.inspect: as print does, but plain tables with what they hold. */
static void print_results(lua_State *L, int first)
{
    int n = lua_gettop(L) - first + 1;
    if (n <= 0) return;
    lua_getglobal(L, "require");
    lua_pushliteral(L, "nnlua.inspect");
    if (nnlua_report(L, nnlua_call(L, 1, 1)) != LUA_OK) return;
    lua_insert(L, first);
    nnlua_report(L, nnlua_call(L, n, 0));
}

/* The global help, unless a script has one. */
static void define_help(lua_State *L)
{
    bool taken = lua_getglobal(L, "help") != LUA_TNIL;
    lua_pop(L, 1);
    if (taken) return;
    lua_getglobal(L, "require");
    lua_pushliteral(L, "nnlua.help");
    if (nnlua_report(L, nnlua_call(L, 1, 1)) != LUA_OK) return;
    lua_getfield(L, -1, "say");
    lua_setglobal(L, "help");
    lua_pop(L, 1);
}

void nnlua_prompt(lua_State *L)
{
    bool editor = false, terminal = isatty(STDIN_FILENO);
#ifdef NNL_HAVE_LIBEDIT
    editor = terminal && isatty(STDOUT_FILENO);
    if (editor) open_editor(L);
#endif
    if (terminal)
        puts("nnlua " NNL_VERSION "  (" LUA_RELEASE
             ")   nn is loaded; help \"relu\" explains, Tab completes, Ctrl-D ends");
    define_help(L);
    int base = lua_gettop(L), status;
    for (reading got; (got = read_line(L, editor, first_prompt)) != INPUT_ENDS;
         lua_settop(L, base)) {
        if (got == LINE_DROPPED || !load_input(L, editor, &status)) continue;
        if (status == LUA_OK) status = nnlua_call(L, 0, LUA_MULTRET);
        if (status == LUA_OK)
            print_results(L, base + 1);
        else
            nnlua_report(L, status);
    }
    if (terminal) putchar('\n');
}
