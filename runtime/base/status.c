/* Status names, the runtime's message and the log hook. */
#include "base.h"

#include <stdarg.h>
#include <string.h>

const char *nnl_status_name(nnl_status status)
{
    static const char *const names[] = {
        [NNL_OK] = "NNL_OK",
        [NNL_EINVAL] = "NNL_EINVAL",
        [NNL_ESHAPE] = "NNL_ESHAPE",
        [NNL_ETYPE] = "NNL_ETYPE",
        [NNL_EINDEX] = "NNL_EINDEX",
        [NNL_ENOMEM] = "NNL_ENOMEM",
        [NNL_ESTATE] = "NNL_ESTATE",
        [NNL_ECANCELLED] = "NNL_ECANCELLED",
        [NNL_EIO] = "NNL_EIO",
        [NNL_EFORMAT] = "NNL_EFORMAT",
        [NNL_EUNSUPPORTED] = "NNL_EUNSUPPORTED",
        [NNL_ECALLBACK] = "NNL_ECALLBACK",
    };
    unsigned place = (unsigned)status;
    return place < (unsigned)NNL_COUNT(names) ? names[place] : "NNL_UNKNOWN";
}

/* Copies all that fits and ends the message with "..." when something did not. */
static void set_message(nnl_runtime *rt, const char *text, size_t length)
{
    size_t room = sizeof(rt->message) - 1;
    size_t kept = NNL_MIN(length, room);
    memcpy(rt->message, text, kept);
    rt->message[kept] = '\0';
    if (length > room) memcpy(rt->message + room - 3, "...", 3);
}

nnl_status nnl_fail(nnl_runtime *rt, nnl_status status, const char *format, ...)
{
    if (!rt) return status;
    /* not straight into rt->message, which may be one of the arguments */
    char text[NNL_MESSAGE_SIZE];
    va_list list;
    va_start(list, format);
    int length = nnl_format_list(text, sizeof text, format, list);
    va_end(list);
    size_t whole = (size_t)length;
    set_message(rt, text, NNL_MIN(whole, sizeof text - 1));
    if (whole >= sizeof text) memcpy(rt->message + sizeof text - 4, "...", 3);
    return status;
}

void nnl_error_prefix(nnl_runtime *rt, const char *format, ...)
{
    char text[2 * NNL_MESSAGE_SIZE];
    va_list list;
    va_start(list, format);
    int prefix = nnl_format_list(text, NNL_MESSAGE_SIZE - 2, format, list);
    va_end(list);
    size_t length = NNL_MIN((size_t)prefix, (size_t)NNL_MESSAGE_SIZE - 3);
    text[length++] = ':';
    text[length++] = ' ';
    size_t rest = strlen(rt->message);
    memcpy(text + length, rt->message, rest);
    set_message(rt, text, length + rest);
}

void nnl_log_message(nnl_runtime *rt, nnl_log_level level, const char *format, ...)
{
    if (!rt->log) return;
    char text[NNL_MESSAGE_SIZE];
    va_list list;
    va_start(list, format);
    nnl_format_list(text, sizeof text, format, list);
    va_end(list);
    rt->log(rt->log_user, level, text);
}

const char *nnl_error_message(const nnl_runtime *rt) { return rt ? rt->message : ""; }
