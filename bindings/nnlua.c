/* The nnlua command: scripts, expressions, a prompt, help and info, with the library built in. */
#include "lua_nnlua.h"

#include <lualib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "environment.h"
#include "repl.h"

static const char usage[] =
    "usage: nnlua [options] [script [args]]\n"
    "       nnlua help [NAME]     signature, formula, defaults, example\n"
    "       nnlua info            version, instruction set, threads, optional parts\n"
    "       nnlua annotations     the library's types for editors (LuaCATS), to be kept as "
    "nnlua.d.lua\n"
    "\n"
    "  -e CODE              run CODE (nn is loaded)\n"
    "  -l MODULE            require MODULE first; -l NAME=MODULE calls it NAME\n"
    "  -i                   go on with the prompt afterwards\n"
    "  -v, --version        print the version\n"
    "  -h, --help           print this\n"
    "  -                    read the script from standard input\n"
    "  --threads N          threads, by default as many as there are processors\n"
    "  --memory-limit N     bytes for tensors at most, as in 512M or 2G\n"
    "  --isa NAME           base, avx2, avx512 or neon, by default the best there is\n"
    "\n"
    "Without a script or -e it reads from the prompt, or runs what standard input holds when that "
    "is no terminal.\n"
    "NNLUA_THREADS, NNLUA_MEMORY_LIMIT and NNLUA_ISA stand for the options of the same names.\n";

typedef struct options {
    int script; /* place of the script in argv, or argc */
    bool prompt, version, code;
} options;

static void complain(const char *message) { fprintf(stderr, "nnlua: %s\n", message); }

/* ---------------------------------------------------------------- Ctrl-C */

void nnl_lua_where(lua_State *L, char *buffer, size_t size); /* state.c */

/* The handler may touch nothing but these: there is one runtime and one state in this program. */
static nnl_runtime *running_rt;
static lua_State *running_L;
static pthread_t main_thread;

/* Raises again and again, so that a script's pcall does not keep it from stopping; but not at once,
 * so that what restores something after an error can do so. */
static void stop_hook(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, stop_hook, LUA_MASKCOUNT, 100);
    nnl_poll_cancel(running_rt); /* takes the request that came with it */
    char where[300];
    nnl_lua_where(L, where, sizeof where);
    lua_pushfstring(L, "%sinterrupted", where);
    lua_error(L);
}

static void on_interrupt(int number)
{
    if (!pthread_equal(pthread_self(),
                       main_thread)) { /* a hook may be set by the state's own thread only */
        pthread_kill(main_thread, number);
        return;
    }
    signal(number, SIG_DFL); /* a second one ends the program */
    nnl_runtime_cancel(running_rt);
    lua_sethook(running_L, stop_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

/* ---------------------------------------------------------------- running */

static int message_handler(lua_State *L)
{
    lua_sethook(L, NULL, 0, 0);
    nnl_poll_cancel(running_rt);
    const char *message = lua_tostring(L, 1);
    if (!message) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_isstring(L, -1)) return 1;
        message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    }
    luaL_traceback(L, L, message, 1);
    return 1;
}

/* Calls the function below n arguments; prints message and traceback when it fails. */
int nnlua_call(lua_State *L, int n, int results)
{
    int base = lua_gettop(L) - n;
    lua_pushcfunction(L, message_handler);
    lua_insert(L, base);
    running_L = L;
    signal(SIGINT, on_interrupt);
    int status = lua_pcall(L, n, results, base);
    signal(SIGINT, SIG_DFL);
    lua_sethook(L, NULL, 0, 0);
    lua_remove(L, base);
    return status;
}

int nnlua_report(lua_State *L, int status)
{
    if (status != LUA_OK) {
        const char *message = lua_tostring(L, -1);
        fflush(stdout);
        fprintf(stderr, "%s\n", message ? message : "(error without a message)");
        lua_pop(L, 1);
    }
    return status;
}

/* require of "module" into the global of that name, or of "name=module" */
static int require_global(lua_State *L, const char *module)
{
    const char *equals = strchr(module, '=');
    lua_getglobal(L, "require");
    lua_pushstring(L, equals ? equals + 1 : module);
    int status = nnlua_call(L, 1, 1);
    if (status == LUA_OK) {
        lua_pushlstring(L, module, equals ? (size_t)(equals - module) : strlen(module));
        lua_insert(L, -2);
        lua_pushglobaltable(L);
        lua_insert(L, -3);
        lua_settable(L, -3);
        lua_pop(L, 1);
    }
    return nnlua_report(L, status);
}

/* The collector would only go over the library's own functions again and again. */
static int load_library(lua_State *L)
{
    lua_gc(L, LUA_GCSTOP);
    int status = require_global(L, "nn=nnlua");
    lua_gc(L, LUA_GCRESTART);
    return status;
}

static int run_text(lua_State *L, const char *text, const char *name)
{
    int status = luaL_loadbuffer(L, text, strlen(text), name);
    if (status == LUA_OK) status = nnlua_call(L, 0, 0);
    return nnlua_report(L, status);
}

/* Without a script, standard input is one. */
static int run_script(lua_State *L, int argc, char **argv, int script)
{
    const char *name = script == argc || strcmp(argv[script], "-") == 0 ? NULL : argv[script];
    int status = luaL_loadfile(L, name);
    if (status == LUA_OK) {
        int n = script == argc ? 0 : argc - script - 1;
        luaL_checkstack(L, n + 4, "too many arguments");
        for (int i = 1; i <= n; i++) lua_pushstring(L, argv[script + i]);
        status = nnlua_call(L, n, 0);
    }
    return nnlua_report(L, status);
}

/* arg as in lua: the script (or else the command) at 0, its arguments from 1, what stands before at
 * negative places. */
static void set_arg(lua_State *L, int argc, char **argv, int script)
{
    if (script == argc) script = 0;
    lua_createtable(L, argc - script, script + 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

/* nnlua help NAME, nnlua info and nnlua annotations: written in Lua. */
static int run_tool(lua_State *L, const char *module, const char *function, const char *argument)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    int status = nnlua_call(L, 1, 1);
    if (status == LUA_OK) {
        lua_getfield(L, -1, function);
        lua_remove(L, -2);
        lua_pushstring(L, argument);
        status = nnlua_call(L, 1, 1);
    }
    if (status != LUA_OK) return nnlua_report(L, status);
    const char *text = lua_tostring(L, -1);
    if (text) fputs(text, stdout);
    int found = text != NULL;
    lua_pop(L, 1);
    return found ? LUA_OK : LUA_ERRRUN;
}

/* ---------------------------------------------------------------- the command line */

/* Settings of the runtime, wherever they stand before the script; fills options.  False: a wrong
 * one. */
static bool read_options(int argc, char **argv, nnl_runtime_config *config, options *o)
{
    static const char *const settings[] = {"threads", "memory-limit", "isa"};
    char problem[160];
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        const char *option = argv[i];
        if (strcmp(option, "-i") == 0)
            o->prompt = true;
        else if (strcmp(option, "-v") == 0 || strcmp(option, "--version") == 0)
            o->version = true;
        else if (strncmp(option, "-e", 2) == 0 || strncmp(option, "-l", 2) == 0) {
            o->code |= option[1] == 'e';
            if (!option[2] && ++i == argc) {
                fprintf(stderr, "nnlua: %s wants an argument\n%s", option, usage);
                return false;
            }
        } else if (strcmp(option, "-h") == 0 || strcmp(option, "--help") == 0) {
            fputs(usage, stdout);
            exit(EXIT_SUCCESS);
        } else if (strcmp(option, "--") == 0) {
            i++;
            break;
        } else {
            int setting = 0;
            size_t length = 0;
            for (; setting < NNL_COUNT(settings); setting++) {
                length = strlen(settings[setting]);
                if (strncmp(option, "--", 2) == 0 &&
                    strncmp(option + 2, settings[setting], length) == 0 &&
                    (!option[2 + length] || option[2 + length] == '='))
                    break;
            }
            if (setting == NNL_COUNT(settings)) {
                const char *near = nnl_nearest(option + 1 + (option[1] == '-'), settings, setting);
                fprintf(stderr, "nnlua: unknown option %s", option);
                if (near) fprintf(stderr, " (did you mean --%s?)", near);
                fprintf(stderr, "\n%s", usage);
                return false;
            }
            const char *value = option[2 + length] == '=' ? option + 3 + length : argv[++i];
            if (!value) {
                fprintf(stderr, "nnlua: %s wants an argument\n%s", option, usage);
                return false;
            }
            if (!nnl_config_set(config, settings[setting], value, problem, sizeof problem)) {
                complain(problem);
                return false;
            }
        }
    }
    o->script = i;
    return true;
}

/* -e and -l in their order. */
static int run_early(lua_State *L, char **argv, int end)
{
    for (int i = 1; i < end; i++) {
        if (argv[i][0] != '-') continue;
        if (strncmp(argv[i], "--", 2) == 0) {
            if (!strchr(argv[i], '=')) i++;
            continue;
        }
        char kind = argv[i][1];
        if (kind != 'e' && kind != 'l') continue;
        const char *value = argv[i][2] ? argv[i] + 2 : argv[++i];
        int status = kind == 'e' ? run_text(L, value, "=(command line)") : require_global(L, value);
        if (status != LUA_OK) return status;
    }
    return LUA_OK;
}

typedef struct session {
    int argc;
    char **argv;
    options o;
    bool ok;
} session;

/* Everything that may raise, under protection. */
static int run_session(lua_State *L)
{
    session *s = lua_touserdata(L, 1);
    int argc = s->argc;
    char **argv = s->argv;
    const options *o = &s->o;
    luaL_openlibs(L);
    if (nnl_lua_open(L, running_rt) != LUA_OK) {
        complain(nnl_error_message(running_rt));
        return 0;
    }
    lua_gc(L, LUA_GCGEN, 0, 0);
    if (!o->code && o->script < argc) {
        static const char *const tools[][3] = {
            {"help", "nnlua.help", "show"},
            {"info", "nnlua.help", "info"},
            {"annotations", "nnlua.annotations", "text"},
        };
        for (int i = 0; i < NNL_COUNT(tools); i++) {
            if (strcmp(argv[o->script], tools[i][0]) != 0) continue;
            s->ok = run_tool(L, tools[i][1], tools[i][2],
                             o->script + 1 < argc ? argv[o->script + 1] : NULL) == LUA_OK;
            return 0;
        }
    }
    if (o->version) puts("nnlua " NNL_VERSION "  (" LUA_RELEASE ")");
    set_arg(L, argc, argv, o->script);
    bool alone = o->script == argc && !o->code && !o->version && !o->prompt,
         terminal = isatty(STDIN_FILENO);
    bool scripted = o->script < argc || (alone && !terminal),
         prompt = o->prompt || (alone && terminal);
    if ((o->code || alone || prompt) && load_library(L) != LUA_OK) return 0;
    if (run_early(L, argv, o->script) != LUA_OK) return 0;
    if (scripted && run_script(L, argc, argv, o->script) != LUA_OK && !o->prompt) return 0;
    if (prompt) nnlua_prompt(L);
    s->ok = true;
    return 0;
}

int main(int argc, char **argv)
{
    nnl_runtime_config config;
    char problem[160];
    session s = {.argc = argc, .argv = argv};
    main_thread = pthread_self();
    if (!nnl_config_from_environment(&config, problem, sizeof problem)) {
        complain(problem);
        return EXIT_FAILURE;
    }
    if (!read_options(argc, argv, &config, &s.o)) return EXIT_FAILURE;
    nnl_status status = nnl_runtime_new(&config, &running_rt);
    lua_State *L = status == NNL_OK ? luaL_newstate() : NULL;
    if (!L) {
        complain(status == NNL_OK || status == NNL_ENOMEM
                     ? "not enough memory, or a memory limit too low to begin with"
                     : nnl_status_name(status));
        return EXIT_FAILURE;
    }
    lua_pushcfunction(L, run_session);
    lua_pushlightuserdata(L, &s);
    if (nnlua_report(L, lua_pcall(L, 1, 0, 0)) != LUA_OK) s.ok = false;
    lua_close(L);
    nnl_runtime_free(running_rt);
    return s.ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
