@echo off
rem Finds Python and starts train_lora.py, which asks for what is missing. Only the texts at the end are not ASCII.
setlocal DisableDelayedExpansion
chcp 65001 >nul
set "HERE=%~dp0"
if not defined LORASMITH_LANG set "LORASMITH_LANG=zh-TW"

rem The pictures of the current folder if there are some or an option was given, else those beside this file.
if not "%~1"=="" goto find
if exist "lora_train_set\" goto find
if exist "lorasmith.toml" goto find
pushd "%HERE%"

:find
set "PY="
if defined CONDA_PREFIX if exist "%CONDA_PREFIX%\python.exe" set "PY=%CONDA_PREFIX%\python.exe"
if exist "%HERE%venv\Scripts\python.exe" set "PY=%HERE%venv\Scripts\python.exe"
if exist "%HERE%.venv\Scripts\python.exe" set "PY=%HERE%.venv\Scripts\python.exe"
if defined VIRTUAL_ENV if exist "%VIRTUAL_ENV%\Scripts\python.exe" set "PY=%VIRTUAL_ENV%\Scripts\python.exe"
if defined PY goto run
py -3 -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>nul
if not errorlevel 1 goto run_py
python -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>nul
if not errorlevel 1 goto run_python
goto no_python

:run
"%PY%" "%HERE%train_lora.py" %*
goto end

:run_py
py -3 "%HERE%train_lora.py" %*
goto end

:run_python
python "%HERE%train_lora.py" %*
goto end

:end
set "STATUS=%ERRORLEVEL%"
pause
exit /b %STATUS%

:no_python
echo 找不到 Python，請先安裝 Python 3.11 以上的版本：https://www.python.org/downloads/
echo 如果已經安裝在虛擬環境裡，請把它放在這個檔案旁邊的 .venv 資料夾，或先啟動虛擬環境再執行
pause
exit /b 2
