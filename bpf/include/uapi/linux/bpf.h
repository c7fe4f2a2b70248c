/* bcc brings its own copy of the bpf(2) interface. */
#pragma once
