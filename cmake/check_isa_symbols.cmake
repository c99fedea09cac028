# cmake -DNM=nm -DISA=name -DOBJECT=isa.cpp.o -P check_isa_symbols.cmake
# An ISA object may define one global symbol: the accessor of its ukernel table. Anything else, a weak copy of an inline
# function above all, could be the copy that the linker keeps for the whole library, and would crash older CPUs.
execute_process(COMMAND ${NM} --defined-only --extern-only --demangle --format=posix ${OBJECT} OUTPUT_VARIABLE text
                RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${NM} failed on ${OBJECT}")
endif()
# posix format: name, type, value, size; a demangled name may hold spaces.
string(REGEX REPLACE "\n+$" "" text "${text}")
string(REPLACE ";" "," text "${text}")
string(REPLACE "\n" ";" lines "${text}")
set(accessors 0)
set(bad "")
foreach(line IN LISTS lines)
  if(line MATCHES "^pconv::${ISA}::[a-z_]*table[a-z_]*\\(.*\\) T ")
    math(EXPR accessors "${accessors} + 1")
  else()
    string(APPEND bad "  ${line}\n")
  endif()
endforeach()
if(bad OR NOT accessors EQUAL 1)
  message(FATAL_ERROR "${OBJECT}: ${accessors} table accessors of pconv::${ISA} (1 expected), other symbols:\n${bad}")
endif()
