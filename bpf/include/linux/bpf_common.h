/* Nothing of it is used by tracing programs. */
#pragma once
