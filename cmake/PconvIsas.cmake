# Reads src/isas.def, the manifest of instruction sets, so that its compiler flags stand nowhere else.

# Sets PCONV_ISAS to the rows built for the target (best first) and PCONV_ISA_FEATURES_<name>, PCONV_ISA_FLAGS_<name>.
function(pconv_read_isas manifest)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${manifest})
  string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" target)
  string(REGEX REPLACE "^(amd64|x64)$" "x86_64" target "${target}")
  string(REGEX REPLACE "^arm64$" "aarch64" target "${target}")
  file(STRINGS ${manifest} rows REGEX "^PCONV_ISA\\(")
  set(isas "")
  foreach(row IN LISTS rows)
    if(NOT row MATCHES "^PCONV_ISA\\(([a-z0-9_]+), *([a-z0-9_]+), *\"([^\"]*)\", *\"([^\"]*)\"\\)$")
      message(FATAL_ERROR "${manifest}: cannot read the row ${row}")
    endif()
    set(name "${CMAKE_MATCH_1}")
    set(wanted TRUE)
    if(PCONV_ONLY_ISAS AND NOT name IN_LIST PCONV_ONLY_ISAS)
      set(wanted FALSE)
    endif()
    if(wanted AND (CMAKE_MATCH_2 STREQUAL target OR CMAKE_MATCH_2 STREQUAL "any"))
      list(APPEND isas ${name})
      set(PCONV_ISA_FEATURES_${name} "${CMAKE_MATCH_3}" PARENT_SCOPE)
      set(PCONV_ISA_FLAGS_${name} "${CMAKE_MATCH_4}" PARENT_SCOPE)
    endif()
  endforeach()
  message(STATUS "Instruction sets for ${target}: ${isas}")
  set(PCONV_ISAS ${isas} PARENT_SCOPE)
endfunction()

# Writes the header from which dispatch.cpp knows the rows that are in this build.
function(pconv_write_built_isas header)
  set(text "// Generated from src/isas.def: the instruction sets in this build, best first, as X(name, \"features\").\n")
  string(APPEND text "#ifndef PCONV_BUILT_ISAS_H_\n#define PCONV_BUILT_ISAS_H_\n\n#define PCONV_FOR_BUILT_ISAS(X)")
  foreach(isa IN LISTS PCONV_ISAS)
    string(APPEND text " \\\n  X(${isa}, \"${PCONV_ISA_FEATURES_${isa}}\")")
  endforeach()
  string(APPEND text "\n\n#endif  // PCONV_BUILT_ISAS_H_\n")
  file(CONFIGURE OUTPUT ${header} CONTENT "${text}" @ONLY)
endfunction()

# One test per ISA: its object exports the table accessor and nothing else (see check_isa_symbols.cmake).
function(pconv_add_symbol_tests)
  foreach(isa IN LISTS PCONV_ISAS)
    add_test(NAME isa_symbols_${isa}
             COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DISA=${isa} "-DOBJECT=$<TARGET_OBJECTS:pconv_isa_${isa}>" -P
                     ${PROJECT_SOURCE_DIR}/cmake/check_isa_symbols.cmake)
  endforeach()
endfunction()
