#include "lua_nnlua.h"
