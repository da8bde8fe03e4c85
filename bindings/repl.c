/* The prompt: history, completion and input over several lines with libedit; plain lines without it. */
#include "lua_nnlua.h"

#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repl.h"

#ifdef NNL_HAVE_LIBEDIT
#include <editline/readline.h>
#endif

#define LINE 4096

static const char first_prompt[] = "> ", next_prompt[] = ">> ";

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

static void history_file(char *path, size_t size)
{
    const char *home = getenv("HOME");
    nnl_format(path, size, "%s/.nnlua_history", home ? home : ".");
}

static void open_editor(lua_State *L)
{
    char path[1024];
    completing = lua_newthread(L); /* a stack of its own; stays below everything else */
    rl_readline_name = "nnlua";
    rl_attempted_completion_function = complete;
    rl_completer_word_break_characters = " \t\n\"'`@$><=;|&{}()[]+-*/%^~#,";
    using_history();
    history_file(path, sizeof path);
    read_history(path);
}

static void close_editor(void)
{
    char path[1024];
    history_file(path, sizeof path);
    stifle_history(1000);
    write_history(path);
}
#endif

/* ---------------------------------------------------------------- lines */

static bool read_line(lua_State *L, bool editor, const char *prompt)
{
#ifdef NNL_HAVE_LIBEDIT
    if (editor) {
        char *line = readline(prompt);
        if (!line) return false;
        lua_pushstring(L, line);
        if (*line) add_history(line);
        free(line);
        return true;
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
    if (!any) lua_pop(L, 1);
    return any;
}

static bool incomplete(lua_State *L, int status)
{
    static const char mark[] = "<eof>";
    size_t length;
    if (status != LUA_ERRSYNTAX) return false;
    const char *message = lua_tolstring(L, -1, &length);
    return length >= sizeof mark - 1 && strcmp(message + length - (sizeof mark - 1), mark) == 0;
}

/* An expression is tried first, so that its value is printed; then a statement, over lines until it is whole.
 * Leaves the function or the message. */
static int load_input(lua_State *L, bool editor)
{
    const char *text = lua_tostring(L, -1);
    lua_pushfstring(L, "return %s", text);
    int status = luaL_loadbuffer(L, lua_tostring(L, -1), lua_rawlen(L, -1), "=stdin");
    lua_remove(L, -2);
    if (status == LUA_OK) {
        lua_remove(L, -2);
        return status;
    }
    lua_pop(L, 1);
    for (;;) {
        size_t length;
        text = lua_tolstring(L, -1, &length);
        status = luaL_loadbuffer(L, text, length, "=stdin");
        if (!incomplete(L, status)) break;
        lua_pop(L, 1);
        if (!read_line(L, editor, next_prompt)) {
            status = luaL_loadbuffer(L, text, length, "=stdin");
            break;
        }
        lua_pushliteral(L, "\n");
        lua_insert(L, -2);
        lua_concat(L, 3);
    }
    lua_remove(L, -2);
    return status;
}

static void print_results(lua_State *L, int first)
{
    int n = lua_gettop(L) - first + 1;
    if (n <= 0) return;
    lua_getglobal(L, "print");
    lua_insert(L, first);
    nnlua_report(L, nnlua_call(L, n, 0));
}

void nnlua_prompt(lua_State *L)
{
    bool editor = false;
#ifdef NNL_HAVE_LIBEDIT
    editor = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    if (editor) open_editor(L);
#endif
    if (isatty(STDIN_FILENO))
        puts("nnlua " NNL_VERSION "  (" LUA_RELEASE ")   nn is loaded; help: nn.help(\"relu\"); end with Ctrl-D");
    int base = lua_gettop(L);
    while (read_line(L, editor, first_prompt)) {
        int status = load_input(L, editor);
        if (status == LUA_OK) status = nnlua_call(L, 0, LUA_MULTRET);
        if (status == LUA_OK) print_results(L, base + 1);
        else nnlua_report(L, status);
        lua_settop(L, base);
    }
    if (isatty(STDIN_FILENO)) putchar('\n');
#ifdef NNL_HAVE_LIBEDIT
    if (editor) close_editor();
#endif
}
