module rollcall.invalid/interop/line

go 1.26.0
