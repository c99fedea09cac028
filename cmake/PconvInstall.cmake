# Install rules and the package config behind find_package(pconv): targets pconv::pconv and pconv::pconv_static.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/pconv)
install(TARGETS pconv pconv_static EXPORT pconvTargets)
install(FILES include/pconv/pconv.h include/pconv/ops.h include/pconv/network.h include/pconv/packed.h
              include/pconv/patterns.def
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pconv)
install(EXPORT pconvTargets NAMESPACE pconv:: DESTINATION ${package_dir})
configure_package_config_file(cmake/pconvConfig.cmake.in ${PROJECT_BINARY_DIR}/pconvConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/pconvConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/pconvConfig.cmake ${PROJECT_BINARY_DIR}/pconvConfigVersion.cmake
        DESTINATION ${package_dir})
